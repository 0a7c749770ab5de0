package ledger

// SchemaVersion is for the test that counts the files in schema/.
const SchemaVersion = schemaVersion

// SetCommit puts f in the place of COMMIT; f gets the real one. Call it before
// the first Do.
func (l *Ledger) SetCommit(f func(commit func() error) error) {
	commit := l.writer.commit
	l.writer.commit = func() error { return f(commit) }
}

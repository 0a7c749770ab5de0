package main

import (
	"bytes"
	"io"
	"os"
	"regexp"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/rs/zerolog"
)

// newLog writes for people, or as JSON lines for machines. Whatever looks like a
// secret is taken out of each line before it leaves: the second fence behind the
// types that do not print.
func newLog(f *os.File, json, verbose bool) zerolog.Logger {
	level := zerolog.InfoLevel
	if verbose {
		level = zerolog.DebugLevel
	}
	out := io.Writer(redactor{f})
	if !json {
		out = zerolog.ConsoleWriter{Out: out, TimeFormat: time.TimeOnly, NoColor: !isatty.IsTerminal(f.Fd())}
	}
	return zerolog.New(out).Level(level).With().Timestamp().Logger()
}

// redactor takes secrets out of what it passes on.
type redactor struct{ w io.Writer }

// secrets are the forms in which a secret could get into a text: a private key's
// PEM, cut off or whole, the signature of a token, a key in a connection string,
// an age identity, the padded base64 of 32 bytes or more.
var secrets = regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----(?:.*?-----END [A-Z ]*PRIVATE KEY-----|[^"]*)` +
	`|sig=[^&\s"]+|SharedAccessKey=[^;\s"]+|AGE-SECRET-KEY-1[0-9A-Z]+` +
	`|[A-Za-z0-9+/]{42,}={1,2}`)

func (r redactor) Write(p []byte) (int, error) {
	line, end := bytes.CutSuffix(p, []byte("\n"))
	line = secrets.ReplaceAll(line, []byte("[redacted]"))
	if end {
		line = append(line, '\n') // one that was cut off may have taken it along
	}
	if _, err := r.w.Write(line); err != nil {
		return 0, err
	}
	return len(p), nil
}

package main

import (
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
// PEM, the signature of a token, a key in a connection string, an age identity,
// the base64 of a key of 32 or 64 bytes.
var secrets = regexp.MustCompile(`(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)` +
	`|sig=[^&\s"]+|SharedAccessKey=[^;\s"]+|AGE-SECRET-KEY-1[0-9A-Z]+` +
	`|\b[A-Za-z0-9+/]{43}=|\b[A-Za-z0-9+/]{86}==`)

func (r redactor) Write(p []byte) (int, error) {
	if _, err := r.w.Write(secrets.ReplaceAll(p, []byte("[redacted]"))); err != nil {
		return 0, err
	}
	return len(p), nil
}

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"nameplate/ca"
	"nameplate/records"

	"golang.org/x/term"
)

// credential is the name under which a passphrase is handed over by systemd
// (LoadCredential=nameplate-passphrase:…).
const credential = "nameplate-passphrase"

// maxPassphrase bounds a passphrase file.
const maxPassphrase = 4096

// passFlag is how commands that need the station's keys get the passphrase: a
// file, systemd's credential, or a prompt. Never an argument: those are seen in
// every process list.
type passFlag struct {
	PassphraseFile string `env:"NAMEPLATE_PASSPHRASE_FILE" help:"File that holds the station's passphrase in one line."`
}

// given returns the passphrase if a file or credential names one.
func (p passFlag) given() (ca.Passphrase, bool, error) {
	file := p.PassphraseFile
	if file == "" {
		dir := os.Getenv("CREDENTIALS_DIRECTORY")
		if dir == "" {
			return ca.Passphrase{}, false, nil
		}
		file = filepath.Join(dir, credential)
		if _, err := os.Stat(file); errors.Is(err, fs.ErrNotExist) {
			return ca.Passphrase{}, false, nil
		}
	}
	f, err := os.Open(file)
	if err != nil {
		return ca.Passphrase{}, false, fmt.Errorf("reading the passphrase: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxPassphrase))
	defer clear(raw)
	if err != nil {
		return ca.Passphrase{}, false, fmt.Errorf("reading the passphrase: %w", err)
	}
	pass, err := ca.NewPassphrase(raw)
	return pass, err == nil, err
}

// ask returns the passphrase, prompting for it if nothing names one. A new
// passphrase is asked for twice.
func (p passFlag) ask(fresh bool) (ca.Passphrase, error) {
	pass, ok, err := p.given()
	if ok || err != nil {
		return pass, err
	}
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return ca.Passphrase{}, &records.Refusal{Code: "passphrase-missing", Sentence: "The station's passphrase is needed.",
			Next: "Give --passphrase-file, or run the command in a terminal."}
	}
	raw, err := prompt("Passphrase: ")
	if err != nil {
		return ca.Passphrase{}, err
	}
	defer clear(raw)
	if fresh {
		again, err := prompt("Once more: ")
		if err != nil {
			return ca.Passphrase{}, err
		}
		defer clear(again)
		if string(again) != string(raw) {
			return ca.Passphrase{}, &records.Refusal{Code: "passphrase-differs", Sentence: "The two passphrases differ.", Next: "Run the command again."}
		}
	}
	return ca.NewPassphrase(raw)
}

func prompt(text string) ([]byte, error) {
	fmt.Fprint(os.Stderr, text)
	raw, err := term.ReadPassword(int(os.Stdin.Fd()))
	fmt.Fprintln(os.Stderr)
	if err != nil {
		return nil, fmt.Errorf("reading the passphrase: %w", err)
	}
	return raw, nil
}

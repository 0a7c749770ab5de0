package ca

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	maxRegistrationID = 128 // the provisioning service's limit
	maxName           = 64  // X.520 ub-common-name, ub-organization-name (RFC 5280 appendix A.1)
)

// CheckRegistrationID refuses a registration ID that is not in the one form used
// everywhere: lower case a-z, 0-9 and, inside, - . _ : with a letter or digit at
// both ends, 1 to 128 characters. The service compares IDs without regard to
// case, an HMAC does not; so there is one case only.
func CheckRegistrationID(id string) error {
	if why := misfit(id); why != "" {
		return &Refusal{Code: "registration-id-form", Sentence: fmt.Sprintf("The registration ID %q %s.", clip(id), why),
			Next: "Correct the order's naming rule: lower-case letters, digits and - . _ : only, a letter or digit first and last."}
	}
	return nil
}

// CheckCommonName refuses a registration ID that cannot be a certificate's common
// name: X.520 leaves half of the service's length.
func CheckCommonName(cn string) error {
	if err := CheckRegistrationID(cn); err != nil {
		return err
	}
	if len(cn) > maxName {
		return &Refusal{Code: "common-name-long",
			Sentence: fmt.Sprintf("The registration ID %q has %d characters; a certificate's common name takes %d.", cn, len(cn), maxName),
			Next:     "Shorten the order's naming rule."}
	}
	return nil
}

// CheckName refuses a name that cannot stand in a certificate's subject as it is:
// empty, longer than 64 characters, or with anything but printable characters.
// what says whose name it is ("organization").
func CheckName(what, name string) error {
	printable := utf8.ValidString(name) && strings.IndexFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) < 0
	if !printable || name == "" || utf8.RuneCountInString(name) > maxName || strings.TrimSpace(name) != name {
		return &Refusal{Code: "name-form", Sentence: fmt.Sprintf("The %s %q cannot stand in a certificate.", what, clip(name)),
			Next: fmt.Sprintf("Use 1 to %d printable characters, no space first or last.", maxName)}
	}
	return nil
}

func misfit(id string) string {
	switch {
	case id == "":
		return "is empty"
	case len(id) > maxRegistrationID:
		return fmt.Sprintf("has %d characters, more than %d", len(id), maxRegistrationID)
	}
	for i, r := range id {
		switch {
		case 'a' <= r && r <= 'z' || '0' <= r && r <= '9':
		case 'A' <= r && r <= 'Z':
			return "has upper-case letters"
		case r != '-' && r != '.' && r != '_' && r != ':':
			return fmt.Sprintf("has the character %q", r)
		case i == 0 || i == len(id)-1:
			return fmt.Sprintf("begins or ends with %q", r)
		}
	}
	return ""
}

// clip keeps a hostile name from filling a screen or a log.
func clip(s string) string {
	if len(s) > 2*maxRegistrationID {
		return s[:2*maxRegistrationID] + "…"
	}
	return s
}

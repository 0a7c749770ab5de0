package web

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"nameplate/ca"
	"nameplate/flasher"
	"nameplate/records"
)

// reachable are the sources whose refusals can become an answer of the API.
var reachable = []string{"../web/*.go", "../home/*.go", "../daemon/*.go", "../line/slot.go",
	"../../records/*.go", "../../records/ledger/*.go", "../../records/batch/*.go",
	"../../ca/*.go", "../../ca/authority/*.go", "../../ca/seal/*.go", "../../ca/ek/roots.go"}

// conflicts are the refusals whose status is 409 because the present state is
// what speaks against the request.
var conflicts = []string{
	"batch-empty", "batch-exists", "batch-folder", "ca-missing", "clock-behind", "enrollment-not-aside", "identity-taken", "no-order",
	"order-closed", "order-exists", "order-expired", "order-other-customer", "slot-busy", "slot-idle", "slots-busy", "station-unlocked", "unit-ambiguous",
	"ek-roots-missing", "ek-roots-unreadable",
	"secret-destroyed", "secret-unknown", "sealed-damaged", "sealed-swapped",
}

// elsewhere are refusals that come before the API answers, or end in a slot's
// status, or are told by a command.
var elsewhere = []string{
	// the start of a station, and commands without one
	"address-in-use", "customer-missing", "socket-path-long", "station-exists", "station-missing", "station-running", "ca-exists", "ca-unfinished",
	"ledger-exists", "ledger-foreign", "ledger-in-use", "ledger-missing", "ledger-newer", "ledger-not-durable", "ledger-not-newest", "checkpoint-unreadable", "ledger-older",
	"ledger-other-station", "station-name-invalid", "batch-missing", "public-key-unreadable",
	// passages
	"board-id-twice", "board-in-two-slots", "board-mixed", "board-not-blank", "board-other-order", "board-released", "family-unknown",
	"board-holds-key", "hardware-id-unfit", "key-known", "console-password", "ek-roots-changed", "order-exhausted", "registration-id-invalid", "registration-id-too-long",
	"certificate-wrong", "common-name-long", "csr-key", "csr-name", "csr-signature", "csr-unreadable", "name-form", "registration-id-form", "validity",
}

// Every refusal has been given its status by somebody: a new one fails here until
// it stands in statusOf, or among those above.
func TestEveryRefusalHasItsStatus(t *testing.T) {
	known := map[string]string{"internal": "", "timeout": "", "request-invalid": ""} // made in this package, with their status
	for code := range statusOf {
		known[code] = "statusOf"
	}
	for list, codes := range map[string][]string{"conflicts": conflicts, "elsewhere": elsewhere} {
		for _, code := range codes {
			if where, twice := known[code]; twice {
				t.Errorf("%s stands in %s and in %s", code, where, list)
			}
			known[code] = list
		}
	}
	found := codesIn(t, reachable)
	if len(found) < 60 {
		t.Fatalf("found only %d codes: the sources were not read", len(found))
	}
	for code, where := range found {
		if _, ok := known[code]; !ok {
			t.Errorf("%s (%s): give it a status in statusOf, or write it among conflicts or elsewhere", code, where)
		}
	}
	for code, where := range known {
		if _, ok := found[code]; !ok && where != "" {
			t.Errorf("%s stands in %s, but nobody refuses with it", code, where)
		}
	}
}

// codesIn finds the codes of all Refusal and Problem literals, with where they stand.
func codesIn(t *testing.T, patterns []string) map[string]string {
	t.Helper()
	codes := map[string]string{}
	for _, pattern := range patterns {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			set := token.NewFileSet()
			tree, err := parser.ParseFile(set, file, nil, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(tree, func(n ast.Node) bool {
				if code := code(n); code != "" {
					codes[code] = set.Position(n.Pos()).String()
				}
				return true
			})
		}
	}
	return codes
}

// code is that of a literal Refusal{Code: "…"}.
func code(n ast.Node) string {
	lit, ok := n.(*ast.CompositeLit)
	if !ok {
		return ""
	}
	name := ""
	switch typ := lit.Type.(type) {
	case *ast.Ident:
		name = typ.Name
	case *ast.SelectorExpr:
		name = typ.Sel.Name
	}
	if name != "Refusal" && name != "Problem" {
		return ""
	}
	for _, e := range lit.Elts {
		pair, ok := e.(*ast.KeyValueExpr)
		if !ok || pair.Key.(*ast.Ident).Name != "Code" {
			continue
		}
		if value, ok := pair.Value.(*ast.BasicLit); ok {
			text, _ := strconv.Unquote(value.Value)
			return text
		}
	}
	return ""
}

// An error becomes what a caller may see: a refusal of any department as it is,
// anything else without its inside.
func TestProblem(t *testing.T) {
	inside := errors.New("open /secret/path: permission denied")
	for _, c := range []struct {
		err    error
		status int
		code   string
	}{
		{&records.Refusal{Code: "order-unknown"}, http.StatusNotFound, "order-unknown"},
		{fmt.Errorf("opening: %w", &records.Refusal{Code: "order-exists", Err: inside}), http.StatusConflict, "order-exists"},
		{&ca.Refusal{Code: "passphrase-wrong"}, http.StatusUnauthorized, "passphrase-wrong"},
		{&flasher.Refusal{Code: "chip-unknown"}, http.StatusConflict, "chip-unknown"},
		{fmt.Errorf("asking: %w", context.Canceled), http.StatusServiceUnavailable, "timeout"},
		{fmt.Errorf("asking: %w", context.DeadlineExceeded), http.StatusServiceUnavailable, "timeout"},
		{inside, http.StatusInternalServerError, "internal"},
	} {
		p := Problem(c.err)
		if p.Status != c.status || p.Code != c.code || strings.Contains(p.Error(), "secret") {
			t.Errorf("%v: %+v, want %d %s", c.err, p, c.status, c.code)
		}
	}
}

package main_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// A rule says which packages some packages may not import. Patterns are import
// paths; "/..." at the end takes in the folders below. Rules are about what is
// built, not about tests: a test may reach for a fixture or a driver.
type rule struct {
	why  string
	from []string // the packages the rule is about
	not  []string // … but these are not
	deny []string // what they must not import
	but  []string // … except these
	deep bool     // nor may anything that they import, however far away
}

const (
	drivers = "modernc.org/sqlite/..."
	sqlPkg  = "database/sql/..."
	step    = "github.com/smallstep/certificates/..."
	stepLib = "go.step.sm/crypto/..."
	serial  = "go.bug.st/serial/..."

	goTPM    = "github.com/google/go-tpm/..."
	chromedp = "github.com/chromedp/..."
)

var rules = []rule{
	{why: "flasher knows nothing of the other departments",
		from: []string{"nameplate/flasher/..."}, deny: []string{"nameplate/..."}, but: []string{"nameplate/flasher/..."}, deep: true},
	{why: "ca knows nothing of the other departments",
		from: []string{"nameplate/ca/..."}, deny: []string{"nameplate/..."}, but: []string{"nameplate/ca/..."}, deep: true},
	{why: "records knows nothing of the other departments",
		from: []string{"nameplate/records/..."}, deny: []string{"nameplate/..."}, but: []string{"nameplate/records/..."}, deep: true},
	{why: "what stands in for the world shares no code with the product",
		from: []string{"nameplate/fixtures/..."}, deny: []string{"nameplate/..."}, but: []string{"nameplate/fixtures/...", "nameplate/station/api"}, deep: true},
	{why: "the API's client carries nothing of ours",
		from: []string{"nameplate/station/api"}, deny: []string{"nameplate/..."}, but: []string{"nameplate/station/api"}, deep: true},
	{why: "the shipped binaries hold no fake",
		from: []string{"nameplate/station"}, deny: []string{"nameplate/fixtures/...", "nameplate/flasher/link/linktest/...", "testing"}, deep: true},
	{why: "smallstep's service code stays behind one door",
		from: []string{"nameplate/..."}, not: []string{"nameplate/ca/authority"}, deny: []string{step}},
	{why: "smallstep's key handling stays within ca and the station's folder",
		from: []string{"nameplate/..."}, not: []string{"nameplate/ca/...", "nameplate/station/home"}, deny: []string{stepLib}},
	{why: "only the ledger speaks SQL",
		from: []string{"nameplate/..."}, not: []string{"nameplate/records/ledger"}, deny: []string{drivers, sqlPkg}},
	{why: "only the link opens serial ports",
		from: []string{"nameplate/..."}, not: []string{"nameplate/flasher/link"}, deny: []string{serial}},
	{why: "only the TPM's rooms and its checks speak its structures",
		from: []string{"nameplate/..."}, not: []string{"nameplate/flasher/tpm", "nameplate/ca/ek", "nameplate/ca/evidence", "nameplate/fixtures/..."}, deny: []string{goTPM}},
	{why: "a browser is for tests",
		from: []string{"nameplate/..."}, not: []string{"nameplate/fixtures/browser"}, deny: []string{chromedp}},
	{why: "a small program can check a batch",
		from: []string{"nameplate/records/batch/..."}, deny: []string{drivers, sqlPkg, step, stepLib, serial, goTPM, "nameplate/flasher/..."}, deep: true},
	{why: "the line runs without people, printers and other systems",
		from: []string{"nameplate/station/line"}, deny: []string{"nameplate/station/people/...", "nameplate/station/label/...", "nameplate/station/mes/...", "nameplate/station/anchor/..."}, deep: true},
	{why: "settings are read with the nouns alone",
		from: []string{"nameplate/station/profile"}, deny: []string{"nameplate/..."}, but: []string{"nameplate/flasher", "nameplate/flasher/link", "nameplate/records", "nameplate/station/profile"}},
}

// imports are the direct imports of every package, by import path.
type imports map[string][]string

func matches(pkg string, patterns []string) bool {
	for _, p := range patterns {
		if tree, ok := strings.CutSuffix(p, "/..."); pkg == tree || ok && strings.HasPrefix(pkg, tree+"/") {
			return true
		}
	}
	return false
}

// broken returns one line for each way from a package to what it must not
// import; the way is spelt out.
func (im imports) broken(r rule) []string {
	var lines []string
	for from := range im {
		if !matches(from, r.from) || matches(from, r.not) {
			continue
		}
		seen := map[string]bool{from: true}
		var walk func(way []string)
		walk = func(way []string) {
			for _, to := range im[way[len(way)-1]] {
				if seen[to] {
					continue
				}
				seen[to] = true
				next := append(slices.Clone(way), to)
				if matches(to, r.deny) && !matches(to, r.but) {
					lines = append(lines, r.why+": "+strings.Join(next, " → "))
					continue
				}
				if r.deep {
					walk(next)
				}
			}
		}
		walk([]string{from})
	}
	slices.Sort(lines)
	return lines
}

func TestLayers(t *testing.T) {
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Imports", "./...")
	cmd.Dir = ".."
	var complaint strings.Builder
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, complaint.String())
	}
	im, ours := imports{}, 0
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		im[p.ImportPath] = p.Imports
		if strings.HasPrefix(p.ImportPath, "nameplate/") {
			ours++
		}
	}
	if ours < 10 {
		t.Fatalf("go list knows %d packages of ours: the rules were not tried", ours)
	}
	for _, r := range rules {
		for _, line := range im.broken(r) {
			t.Error(line)
		}
	}
}

// Each rule finds what it forbids, and lets pass what is allowed beside it.
func TestLayersFindsViolations(t *testing.T) {
	fine := imports{
		"nameplate/station":                   {"nameplate/station/daemon", "fmt"},
		"nameplate/station/daemon":            {"nameplate/records/ledger", "nameplate/ca/authority", "nameplate/flasher/link", "nameplate/station/line", "nameplate/station/profile"},
		"nameplate/station/line":              {"nameplate/flasher", "nameplate/ca", "nameplate/records"},
		"nameplate/station/home":              {stepLib[:len(stepLib)-4] + "/pemutil"},
		"nameplate/station/profile":           {"nameplate/flasher", "nameplate/records"},
		"nameplate/station/api":               {"net/http"},
		"nameplate/flasher":                   {"nameplate/flasher/link"},
		"nameplate/flasher/link":              {"go.bug.st/serial"},
		"nameplate/ca/authority":              {"nameplate/ca", "github.com/smallstep/certificates/cas/softcas", "go.step.sm/crypto/pemutil"},
		"nameplate/records/ledger":            {"nameplate/records", "database/sql", "modernc.org/sqlite"},
		"nameplate/records/batch":             {"nameplate/records"},
		"nameplate/fixtures/simline":          {"nameplate/fixtures/boards", "nameplate/station/api"},
		"nameplate/flasher/link/linktest":     {"nameplate/flasher/link", "testing"},
		"nameplate/records/batchwork":         {"nameplate/records/ledger"}, // not below records/batch
		"github.com/smallstep/certificates/x": {"database/sql"},             // not ours
	}
	for _, r := range rules {
		for _, line := range fine.broken(r) {
			t.Errorf("refused, but allowed: %s", line)
		}
	}
	for _, c := range []struct{ from, to, want string }{
		{"nameplate/flasher", "nameplate/records", "flasher knows nothing of the other departments: nameplate/flasher → nameplate/records"},
		{"nameplate/ca/authority", "nameplate/station/home", "ca knows nothing of the other departments: nameplate/ca/authority → nameplate/station/home"},
		{"nameplate/records", "nameplate/ca", "records knows nothing of the other departments: nameplate/records → nameplate/ca"},
		{"nameplate/fixtures/boards", "nameplate/flasher/encode/nvs", "what stands in for the world shares no code with the product: nameplate/fixtures/boards → nameplate/flasher/encode/nvs"},
		{"nameplate/station/api", "nameplate/records", "the API's client carries nothing of ours: nameplate/station/api → nameplate/records"},
		{"nameplate/station/daemon", "nameplate/fixtures/boards", "the shipped binaries hold no fake: nameplate/station → nameplate/station/daemon → nameplate/fixtures/boards"},
		{"nameplate/station/daemon", "nameplate/flasher/link/linktest", "the shipped binaries hold no fake: nameplate/station → nameplate/station/daemon → nameplate/flasher/link/linktest"},
		{"nameplate/station/daemon", "github.com/smallstep/certificates/cas/apiv1", "smallstep's service code stays behind one door: nameplate/station/daemon → github.com/smallstep/certificates/cas/apiv1"},
		{"nameplate/station/line", "go.step.sm/crypto/keyutil", "smallstep's key handling stays within ca and the station's folder: nameplate/station/line → go.step.sm/crypto/keyutil"},
		{"nameplate/records/replay", "modernc.org/sqlite/lib", "only the ledger speaks SQL: nameplate/records/replay → modernc.org/sqlite/lib"},
		{"nameplate/flasher/espressif", "go.bug.st/serial/enumerator", "only the link opens serial ports: nameplate/flasher/espressif → go.bug.st/serial/enumerator"},
		{"nameplate/records/batch", "nameplate/records/ledger", "a small program can check a batch: nameplate/records/batch → nameplate/records/ledger → database/sql"},
		{"nameplate/station/line", "nameplate/station/label/zpl", "the line runs without people, printers and other systems: nameplate/station/line → nameplate/station/label/zpl"},
		{"nameplate/station/profile", "nameplate/records/ledger", "settings are read with the nouns alone: nameplate/station/profile → nameplate/records/ledger"},
	} {
		bad := imports{}
		for k, v := range fine {
			bad[k] = v
		}
		bad[c.from] = append(slices.Clone(bad[c.from]), c.to)
		var found []string
		for _, r := range rules {
			found = append(found, bad.broken(r)...)
		}
		if !slices.Contains(found, c.want) {
			t.Errorf("%s → %s: found %q, want %q", c.from, c.to, found, c.want)
		}
	}
}

// A house rule is a text that must not stand in a kind of file.
type houseRule struct {
	why   string
	text  *regexp.Regexp
	files func(path string) bool
}

func isTest(path string) bool { return strings.HasSuffix(path, "_test.go") }

var houseRules = []houseRule{
	{"an error is wrapped with %w, so that its causes can be asked for", regexp.MustCompile(`fmt\.Errorf\(.*%v", err\b`),
		func(path string) bool { return !isTest(path) }},
	{"tests and drivers wait with a context and a timer", regexp.MustCompile(`\btime\.Sleep\(`),
		func(path string) bool { return isTest(path) || strings.HasPrefix(path, "flasher/") }},
}

func broken(path, text string) []string {
	var lines []string
	for n, line := range strings.Split(text, "\n") {
		for _, r := range houseRules {
			if r.files(path) && r.text.MatchString(line) {
				lines = append(lines, fmt.Sprintf("%s:%d: %s", path, n+1, r.why))
			}
		}
	}
	return lines
}

func TestHouseRules(t *testing.T) {
	for _, folder := range []string{"station", "flasher", "ca", "records", "fixtures"} {
		err := filepath.WalkDir(filepath.Join("..", folder), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() || filepath.Ext(path) != ".go" {
				return err
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, line := range broken(filepath.ToSlash(strings.TrimPrefix(path, "../")), string(text)) {
				t.Error(line)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestHouseRulesFindViolations(t *testing.T) {
	const flat, nap = `fmt.Errorf("reading: %v", ` + `err)`, `time.` + `Sleep(1)`
	for _, c := range []struct {
		path, text string
		want       int
	}{
		{"ca/x.go", flat, 1}, {"ca/x_test.go", flat, 0},
		{"ca/x_test.go", nap, 1}, {"flasher/link/x.go", nap, 1}, {"fixtures/boards/x.go", nap, 0},
	} {
		if got := broken(c.path, c.text); len(got) != c.want {
			t.Errorf("%s with %s: found %q", c.path, c.text, got)
		}
	}
}

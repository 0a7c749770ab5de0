// Package profile is a station's configuration: the station itself, the
// products it makes, the customers it makes them for, and the work orders. The
// fields of the structs, with their comments, are the manual of the files.
//
// Every file is decoded strictly and checked as a whole: an unknown key, a
// wrong type, a missing or a bad value is a Problem with file, line, what is
// expected and what to do, and all of a file's Problems are reported at once.
// Nothing here is a secret; secrets stand in files of their own, which the
// settings name.
package profile

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
)

// Set is a station folder's settings: station.yaml, products/*.yaml and
// customers/*.yaml, all of them checked.
type Set struct {
	Dir       string
	Station   Station
	Products  map[string]Product
	Customers map[string]Customer
}

// Load reads a station folder's settings. Its error is Problems when the files
// could be read and are wrong. It looks at no other file: see Check.
func Load(dir string) (Set, error) {
	set := Set{Dir: dir, Products: map[string]Product{}, Customers: map[string]Customer{}}
	var problems Problems
	var err error
	var found Problems
	if set.Station, found, err = loadStation(filepath.Join(dir, "station.yaml")); err != nil {
		return Set{}, err
	}
	problems = append(problems, found...)

	files, err := yamlFiles(filepath.Join(dir, "products"))
	if err != nil {
		return Set{}, err
	}
	for _, file := range files {
		p, found, err := loadProduct(file)
		if err != nil {
			return Set{}, err
		}
		problems = append(problems, found...)
		set.Products[p.Name] = p
	}

	files, err = yamlFiles(filepath.Join(dir, "customers"))
	if err != nil {
		return Set{}, err
	}
	for _, file := range files {
		c, found, err := loadCustomer(file)
		if err != nil {
			return Set{}, err
		}
		problems = append(problems, found...)
		set.Customers[c.Name] = c
	}
	if err := problems.orNil(); err != nil {
		return Set{}, err
	}
	return set, nil
}

// yamlFiles are the *.yaml of a folder. A *.yml is not silently passed over.
func yamlFiles(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading settings: %w", err)
	}
	var files []string
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch filepath.Ext(e.Name()) {
		case ".yaml":
			files = append(files, path)
		case ".yml":
			return nil, Problems{{File: path, Text: "the name ends in .yml; expected .yaml; rename the file"}}
		}
	}
	sort.Strings(files)
	return files, nil
}

// The form of the names of stations, slots, products and customers: they stand
// in paths, addresses and the checkpoint's origin.
var nameForm = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

const nameRule = "1 to 32 lower-case letters, digits and inner hyphens"

func (d *decoder) name(path, s string) {
	if !nameForm.MatchString(s) {
		d.bad(path, fmt.Sprintf("%s %q cannot be a name", path, s), nameRule, "choose another name")
	}
}

// fileName checks that the file is called after what it describes.
func (d *decoder) fileName(name string) {
	if want := strings.TrimSuffix(filepath.Base(d.file), ".yaml"); name != want {
		d.bad("name", fmt.Sprintf("the name is %q, but the file is %s", name, filepath.Base(d.file)),
			fmt.Sprintf("%q", want), "rename the file, or correct the name")
	}
}

// oneOf checks a word from a list.
func (d *decoder) oneOf(path, s string, words ...string) {
	for _, w := range words {
		if s == w {
			return
		}
	}
	d.bad(path, fmt.Sprintf("%s is %q", path, s), strings.Join(words, " or "), "choose one of them")
}

// between checks a number's range.
func (d *decoder) between(path string, n, low, high int64) {
	if n < low || n > high {
		d.bad(path, fmt.Sprintf("%s is %d", path, n), fmt.Sprintf("a number from %d to %d", low, high), "correct the value")
	}
}

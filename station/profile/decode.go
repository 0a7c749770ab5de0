package profile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// maxFile bounds what is parsed: a hand-written file is a few kilobytes, and the
// parser's work on hostile nesting grows with the square of its input.
const maxFile = 32 << 10

// Unsupported is a section that this version knows and refuses, so that nobody
// believes it had an effect.
type Unsupported struct{}

// Text may be written as a block of lines.
type Text string

// decoder turns one YAML file into a struct and collects every mistake, where
// the YAML library alone would stop at the first. A field without ",optional"
// in its tag must be there. What is not in the file keeps the value that the
// struct came with: its default.
type decoder struct {
	source
	faulty   map[string]bool // paths that have a Problem; what is wrong inside them follows from it
	problems Problems
}

func (d *decoder) bad(path, wrong, expected, todo string) {
	for at := path; ; at = parent(at) {
		if d.faulty[at] {
			return
		}
		if at == "" {
			break
		}
	}
	d.faulty[path] = true
	d.problems = append(d.problems, d.problem(path, wrong, expected, todo))
}

// decodeFile reads and decodes path into the struct that into points to.
func decodeFile(path string, into any) (*decoder, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading settings: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading settings: %w", err)
	}
	return decode(path, raw, into), nil
}

func decode(file string, raw []byte, into any) *decoder {
	d := &decoder{source: source{file: file, raw: raw, lines: map[string]int{"": 1}}, faulty: map[string]bool{}}
	if len(raw) > maxFile {
		d.bad("", fmt.Sprintf("the file has more than %d bytes", maxFile), "a hand-written settings file", "check that it is the right one")
		return d
	}
	doc, err := parser.ParseBytes(raw, 0, parser.AllowDuplicateMapKey())
	if err != nil {
		d.syntax(err)
		return d
	}
	var bodies []ast.Node
	for _, doc := range doc.Docs {
		if doc.Body != nil && doc.Body.Type() != ast.CommentType {
			bodies = append(bodies, doc.Body)
		}
	}
	switch {
	case len(bodies) == 0:
		d.bad("", "the file is empty", "keys and values", "copy one from the examples in configs/")
	case len(bodies) > 1:
		d.lines[""] = line(bodies[1])
		d.bad("", "a second document starts here", "one document in a file", "move it to a file of its own")
	default:
		d.value("", bodies[0], reflect.ValueOf(into).Elem())
	}
	return d
}

func (d *decoder) syntax(err error) {
	wrong := "the file is not YAML"
	var bad *yaml.SyntaxError
	if errors.As(err, &bad) {
		wrong = "this is not YAML: " + bad.Message
		if bad.Token != nil && bad.Token.Position != nil {
			d.lines[""] = bad.Token.Position.Line
		}
	}
	d.bad("", wrong, "lines of the form key: value, indented with spaces", "correct the line or the one before it")
}

// value decodes n into v and remembers where it stands.
func (d *decoder) value(path string, n ast.Node, v reflect.Value) {
	if _, ok := d.lines[path]; !ok || path == "" {
		d.lines[path] = line(n)
	}
	if v.Type() == reflect.TypeFor[Unsupported]() {
		d.bad(path, path+" is not yet supported by this version", "no such section", "remove the section")
		return
	}
	switch n.(type) {
	case *ast.AnchorNode, *ast.AliasNode, *ast.TagNode, *ast.MergeKeyNode:
		d.bad(path, named(path)+" uses an anchor, alias or tag", "a plain value", "write the value out")
		return
	case *ast.NullNode:
		d.bad(path, named(path)+" has no value", kindOf(v.Type()), "write one, or remove the key if it is optional")
		return
	}
	if !d.set(path, n, v) {
		todo := "correct the value"
		if _, number := n.(*ast.IntegerNode); number && v.Kind() == reflect.String {
			todo = fmt.Sprintf("put it in quotes: %q", scalar(n))
		}
		what := describe(n)
		if path == "" {
			what = "one piece of text" // it may be another file by mistake, a key among them: nothing of it is shown
		}
		d.bad(path, named(path)+" is "+what, kindOf(v.Type()), todo)
	}
}

// set reports whether n is of v's kind; it has then been decoded, with the
// problems inside it noted.
func (d *decoder) set(path string, n ast.Node, v reflect.Value) bool {
	switch p := v.Addr().Interface().(type) {
	case *time.Duration:
		s, ok := n.(*ast.StringNode)
		if !ok {
			return false
		}
		parsed, err := time.ParseDuration(s.Value)
		*p = parsed
		return err == nil
	case *time.Time:
		s, ok := n.(*ast.StringNode)
		if !ok {
			return false
		}
		parsed, err := parseTime(s.Value)
		*p = parsed
		return err == nil
	}
	switch v.Kind() {
	case reflect.String:
		if block, ok := n.(*ast.LiteralNode); ok && v.Type() == reflect.TypeFor[Text]() {
			v.SetString(block.Value.Value)
			return true
		}
		s, ok := n.(*ast.StringNode)
		if ok {
			v.SetString(s.Value)
		}
		return ok
	case reflect.Int, reflect.Int64:
		if _, ok := n.(*ast.IntegerNode); !ok {
			return false
		}
		text := scalar(n)
		i, err := strconv.ParseInt(text, 10, v.Type().Bits())
		// 010 is eight to some readers and ten to others.
		if err != nil || strconv.FormatInt(i, 10) != text {
			return false
		}
		v.SetInt(i)
		return true
	case reflect.Bool:
		b, ok := n.(*ast.BoolNode)
		if ok {
			v.SetBool(b.Value)
		}
		return ok
	case reflect.Slice:
		s, ok := n.(*ast.SequenceNode)
		if !ok {
			return false
		}
		v.Set(reflect.MakeSlice(v.Type(), len(s.Values), len(s.Values)))
		for i, item := range s.Values {
			d.value(fmt.Sprintf("%s[%d]", path, i), item, v.Index(i))
		}
		return true
	case reflect.Map:
		pairs, ok := d.pairs(path, n)
		v.Set(reflect.MakeMap(v.Type()))
		for _, p := range pairs {
			at := join(path, p.key)
			item := reflect.New(v.Type().Elem()).Elem()
			d.value(at, p.value, item)
			v.SetMapIndex(reflect.ValueOf(p.key), item)
		}
		return ok
	case reflect.Struct:
		pairs, ok := d.pairs(path, n)
		if ok {
			d.fields(path, pairs, v)
		}
		return ok
	}
	panic("profile: no decoder for " + v.Type().String())
}

// fields decodes the pairs of a mapping into the struct v.
func (d *decoder) fields(path string, pairs []pair, v reflect.Value) {
	var known, present []string
	for i := range v.NumField() {
		tag, _, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		if tag != "" {
			known = append(known, tag)
		}
	}
	for _, p := range pairs {
		present = append(present, p.key)
		if !slices.Contains(known, p.key) {
			at := join(path, p.key)
			d.lines[at] = p.line
			todo := "remove it"
			if near := nearest(p.key, known); near != "" {
				todo = fmt.Sprintf("did you mean %q?", near)
			}
			d.bad(at, fmt.Sprintf("unknown key %q", p.key), "one of "+strings.Join(known, ", "), todo)
		}
	}
	for i := range v.NumField() {
		tag, option, _ := strings.Cut(v.Type().Field(i).Tag.Get("yaml"), ",")
		if tag == "" {
			continue
		}
		at := join(path, tag)
		if k := slices.Index(present, tag); k >= 0 {
			d.lines[at] = pairs[k].line
			d.value(at, pairs[k].value, v.Field(i))
		} else if option != "optional" {
			d.bad(at, named(at)+" is missing", kindOf(v.Field(i).Type()), "add the key")
		}
	}
}

type pair struct {
	key   string
	line  int
	value ast.Node
}

// pairs are the keys and values of a mapping, each key once.
func (d *decoder) pairs(path string, n ast.Node) ([]pair, bool) {
	m, ok := n.(*ast.MappingNode)
	if !ok {
		return nil, false
	}
	var pairs []pair
	for _, v := range m.Values {
		p := pair{key: v.Key.String(), line: line(v.Key), value: v.Value}
		if s, ok := v.Key.(*ast.StringNode); ok {
			p.key = s.Value
		}
		first := slices.IndexFunc(pairs, func(q pair) bool { return q.key == p.key })
		if first < 0 {
			pairs = append(pairs, p)
			continue
		}
		d.problems = append(d.problems, Problem{File: d.file, Line: p.line, Text: fmt.Sprintf(
			"%s stands here a second time; expected each key once (first in line %d); remove one of them", named(join(path, p.key)), pairs[first].line)})
	}
	return pairs, true
}

// parseTime takes a time as RFC 3339 writes it, or a date: that day's end in UTC.
func parseTime(s string) (time.Time, error) {
	if day, err := time.Parse(time.DateOnly, s); err == nil {
		return day.AddDate(0, 0, 1).Add(-time.Second), nil
	}
	t, err := time.Parse(time.RFC3339, s)
	return t.UTC(), err
}

func line(n ast.Node) int {
	// The token of a block mapping is the colon of its first pair.
	if m, ok := n.(*ast.MappingNode); ok && len(m.Values) > 0 && m.GetToken().Value == ":" {
		return line(m.Values[0].Key)
	}
	if t := n.GetToken(); t != nil && t.Position != nil {
		return t.Position.Line
	}
	return 1
}

// parent is the path of the section or list that path is in; "" is the file.
func parent(path string) string { return path[:max(0, strings.LastIndexAny(path, ".["))] }

func join(path, key string) string {
	if path == "" {
		return key
	}
	return path + "." + key
}

func named(path string) string {
	if path == "" {
		return "the file"
	}
	return path
}

func scalar(n ast.Node) string { return n.GetToken().Value }

func describe(n ast.Node) string {
	switch n.(type) {
	case *ast.MappingNode:
		return "a section"
	case *ast.SequenceNode:
		return "a list"
	case *ast.LiteralNode:
		return "a block of lines"
	}
	return fmt.Sprintf("%q", scalar(n))
}

func kindOf(t reflect.Type) string {
	switch t {
	case reflect.TypeFor[time.Duration]():
		return "a duration such as 30s or 2m"
	case reflect.TypeFor[time.Time]():
		return "a time such as 2030-12-31T18:00:00Z, or a date"
	}
	switch t.Kind() {
	case reflect.Int, reflect.Int64:
		return "a whole number"
	case reflect.Bool:
		return "true or false"
	case reflect.Slice:
		return "a list"
	case reflect.Map, reflect.Struct:
		return "a section of keys and values"
	}
	return "text"
}

// nearest is the known key that a typing mistake may have been: at most two
// letters away.
func nearest(key string, known []string) string {
	best, at := 3, ""
	for _, k := range known {
		if n := distance(key, k); n < best {
			best, at = n, k
		}
	}
	return at
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

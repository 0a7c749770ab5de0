package profile

import (
	"fmt"
	"sort"
	"strings"
)

// Problem is one mistake in one file. Text says what is wrong, what is expected
// and what to do, parted by semicolons.
type Problem struct {
	File string
	Line int // from 1; 0 when the mistake is the file itself
	Text string
}

// String is the form that editors and terminals can jump to: file:line: text.
func (p Problem) String() string {
	if p.Line == 0 {
		return p.File + ": " + p.Text
	}
	return fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Text)
}

// Problems is every mistake that was found, in the order of the files and lines.
// As an error it is one line for each.
type Problems []Problem

func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// orNil makes an error of ps: nil when there is none.
func (ps Problems) orNil() error {
	if len(ps) == 0 {
		return nil
	}
	sort.SliceStable(ps, func(i, j int) bool {
		if ps[i].File != ps[j].File {
			return ps[i].File < ps[j].File
		}
		return ps[i].Line < ps[j].Line
	})
	return ps
}

// source is where a struct came from: it gives every value its line.
type source struct {
	file  string
	raw   []byte
	lines map[string]int // by path: "slots[0].port"
}

// line is where the value of path stands; when it is not written down, the
// section that it belongs to.
func (s source) line(path string) int {
	for ; path != ""; path = parent(path) {
		if n, ok := s.lines[path]; ok {
			return n
		}
	}
	return s.lines[""]
}

// problem makes the Problem for a value of this file.
func (s source) problem(path, wrong, expected, todo string) Problem {
	return Problem{File: s.file, Line: s.line(path), Text: wrong + "; expected " + expected + "; " + todo}
}

package link

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

// transcript is a sink that writes down what it is given.
type transcript struct {
	bytes []byte
	words strings.Builder
}

func (t *transcript) data(p []byte) error {
	t.bytes = append(t.bytes, p...)
	return nil
}

func (t *transcript) option(verb, opt byte) error {
	fmt.Fprintf(&t.words, "[%d %d at %d]", verb, opt, len(t.bytes))
	return nil
}

func (t *transcript) sub(p []byte) error {
	fmt.Fprintf(&t.words, "[sub % x at %d]", p, len(t.bytes))
	return nil
}

func TestDecode(t *testing.T) {
	for _, c := range []struct {
		name, in, data, words string
	}{
		{"data", "abc", "abc", ""},
		{"doubled IAC", "a\xff\xffb\xff\xff", "a\xffb\xff", ""},
		{"carriage returns stay", "\r\x00\r\n", "\r\x00\r\n", ""},
		{"options", "\xff\xfb\x00a\xff\xfd\x2c\xff\xfc\xff", "a", "[251 0 at 0][253 44 at 1][252 255 at 1]"},
		{"confirmation", "a\xff\xfa\x2c\x65\x00\x01\xc2\x00\xff\xf0b", "ab", "[sub 2c 65 00 01 c2 00 at 1]"},
		{"IAC in a value", "\xff\xfa\x2c\x65\x00\x00\xff\xff\xff\xff\xff\xf0", "", "[sub 2c 65 00 00 ff ff at 0]"},
		{"empty subnegotiation", "\xff\xfa\xff\xf0x", "x", "[sub  at 0]"},
		{"subnegotiation without an end", "\xff\xfa\x2c\x65\xff\xfb\x00x", "x", "[251 0 at 0]"},
		{"subnegotiation begun twice", "\xff\xfa\x2c\xff\xfa\x2c\x6b\x01\xff\xf0", "", "[sub 2c 6b 01 at 0]"},
		{"end without a beginning", "a\xff\xf0b", "ab", ""},
		{"other commands", "a\xff\xf1\xff\xf6\xff\xf9\xff\x00b", "ab", ""},
		{"cut short", "a\xff", "a", ""},
	} {
		var got transcript
		if err := new(decoder).decode([]byte(c.in), &got); err != nil || string(got.bytes) != c.data || got.words.String() != c.words {
			t.Errorf("%s: %q %s, %v", c.name, got.bytes, got.words.String(), err)
		}
	}
}

// Whatever comes, the decoder neither panics nor depends on how the stream was
// cut, the link's own state takes it within its bounds, and what we escape
// arrives.
func FuzzDecode(f *testing.F) {
	f.Add([]byte("plain\xff\xff\r\n"))
	f.Add([]byte("\xff\xfd\x2c\xff\xfb\x00\xff\xfd\x00\xff\xfa\x2c\x65\x00\x01\xc2\x00\xff\xf0"))
	f.Add([]byte("\xff\xfa\x2c\x69\x08\xff\xf0\xff\xfa\x2c\x70\x01\xff\xf0\xff\xfa\x2c\x6c\xff\xf0"))
	f.Add(append([]byte("\xff\xfa\x2c"), make([]byte, maxSub)...))
	f.Add([]byte("\xff\xfa\xff\xfa\xff\xff\xff\xfe\x00"))
	f.Fuzz(func(t *testing.T, p []byte) {
		var whole, pieces transcript
		errWhole := new(decoder).decode(p, &whole)
		var d decoder
		var errPieces error
		for i := 0; i < len(p) && errPieces == nil; i++ {
			errPieces = d.decode(p[i:i+1], &pieces)
		}
		if errWhole == nil && (!bytes.Equal(whole.bytes, pieces.bytes) || whole.words.String() != pieces.words.String()) || errWhole != errPieces {
			t.Errorf("whole %q %s %v\npieces %q %s %v", whole.bytes, whole.words.String(), errWhole, pieces.bytes, pieces.words.String(), errPieces)
		}

		l := &comLink{replies: make(chan []byte, maxReplies), answers: map[kind][]*answer{}}
		l.options.hello()
		if _, err := l.expect([]command{{code: comSetBaud}, {code: comSetControl, value: []byte{controlDTROn}}, {code: comPurge}}); err != nil {
			t.Fatal(err)
		}
		_ = new(decoder).decode(p, (*comSink)(l)) // it may refuse
		if len(l.arrived) > len(p) {
			t.Errorf("%d bytes became %d", len(p), len(l.arrived))
		}

		escaped := appendEscaped(nil, p)
		for _, cut := range []int{len(escaped), len(escaped) / 2, len(escaped) / 3} {
			sent := bytes.Clone(escaped[:cut])
			if cutInPair(sent) {
				sent = append(sent, iac)
			}
			var got transcript
			var d decoder
			if err := d.decode(sent, &got); err != nil || d.state != plain || got.words.Len() > 0 || !bytes.HasPrefix(p, got.bytes) {
				t.Errorf("% x escaped and cut at %d: % x, %v", p, cut, got.bytes, err)
			}
			if cut == len(escaped) && len(got.bytes) != len(p) {
				t.Errorf("% x escaped: % x", p, got.bytes)
			}
		}
	})
}

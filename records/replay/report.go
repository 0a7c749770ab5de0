package replay

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// Finding is one thing that is not as it must be.
type Finding struct {
	Event    int64  `json:"event,omitempty"` // the event's number; 0 if it is about no single event
	What     string `json:"what"`            // in plain words
	Expected string `json:"expected,omitempty"`
	Found    string `json:"found,omitempty"`
}

func (f Finding) String() string {
	var b strings.Builder
	if f.Event != 0 {
		fmt.Fprintf(&b, "event %d: ", f.Event)
	}
	b.WriteString(f.What)
	if f.Expected != "" || f.Found != "" {
		fmt.Fprintf(&b, ": expected %s, found %s", f.Expected, f.Found)
	}
	return b.String()
}

// maxFindings bounds what a report holds: one slip can make every later event
// wrong, and a person reads the first few.
const maxFindings = 1000

// Report is what a replay found.
type Report struct {
	Station string    `json:"station"`
	Origin  string    `json:"origin"`
	Events  int64     `json:"events"`
	Root    tlog.Hash `json:"root"` // computed from the stored bytes
	Units   int64     `json:"units"`
	Orders  int       `json:"orders"`
	Names   int64     `json:"names"` // that are owned at the end
	// Checkpoints is how many stored ones agree; Signed the size of the largest
	// of them whose signature was checked.
	Checkpoints int   `json:"checkpoints"`
	Signed      int64 `json:"signed"`
	// Outside is the size of the checkpoint kept elsewhere, if it agrees.
	Outside int64 `json:"outside,omitempty"`
	// Checked is how many events went through Options.Checks.
	Checked int64 `json:"checked"`

	Findings []Finding `json:"findings"`       // in the order of the events, at most maxFindings
	More     int       `json:"more,omitempty"` // findings beyond those

	EventsTook time.Duration `json:"-"`
	UnitsTook  time.Duration `json:"-"`
	// ChecksTook is the time spent in Options.Checks, all cores added up.
	ChecksTook time.Duration `json:"-"`

	keyless bool // no Verifier was given
}

// OK says that nothing was found. What that is worth, Caveats says.
func (r Report) OK() bool { return len(r.Findings) == 0 }

// Caveats says in plain words what this replay could not know.
func (r Report) Caveats() []string {
	var c []string
	if r.keyless {
		c = append(c, "No public key of the station was given: the checkpoints' signatures were not checked.")
	} else if r.Signed < r.Events {
		c = append(c, fmt.Sprintf("%d of %d events came after the newest signed checkpoint: no signature covers them.", r.Events-r.Signed, r.Events))
	}
	switch {
	case r.Outside == 0:
		c = append(c, "No checkpoint from elsewhere was held against this ledger: nothing proves that this is the newest history, or the only one.")
	case r.Outside < r.Events:
		c = append(c, fmt.Sprintf("The checkpoint from elsewhere covers %d of %d events: nothing proves that no later ones were cut off.", r.Outside, r.Events))
	default:
		c = append(c, "The checkpoint from elsewhere covers every event here; events that came after it and were cut off would not be missed.")
	}
	return c
}

func (r Report) sort() {
	slices.SortStableFunc(r.Findings, func(a, b Finding) int {
		return cmp.Or(cmp.Compare(a.Event, b.Event), cmp.Compare(a.What, b.What))
	})
}

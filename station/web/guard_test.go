package web_test

import (
	"encoding/json"
	"net/http"
	"regexp"
	"strings"
	"testing"
)

// The loopback address shows everything and does nothing: who may act is decided
// by the permissions of the socket's file.
func TestLoopbackOnlyShows(t *testing.T) {
	s := serve(t)
	for _, path := range []string{"/station", "/orders", "/units", "/slots", "/push", "/openapi.json"} {
		if status, text := s.ask(request{door: "loopback", method: "GET", path: "/api/v1" + path}); status != http.StatusOK {
			t.Errorf("GET %s: %d %s", path, status, text)
		}
	}
	for _, method := range []string{"POST", "PUT", "PATCH", "DELETE"} {
		for _, path := range []string{"/unlock", "/orders", "/orders/WO-1/close", "/exports", "/push/U1/retry", "/page", "/nothing"} {
			s.refused(request{door: "loopback", method: method, path: "/api/v1" + path, body: `{}`}, 403, "socket-only")
		}
	}
	for _, path := range []string{"/slots/a1/start", "/slots/a1/cancel", "/orders/WO-1/pick"} {
		s.refused(request{door: "loopback", method: "POST", path: "/api/v1" + path, body: `{}`}, 403, "page-only-shows")
	}
	if n := s.home.Ledger.Size(); n != 0 {
		t.Errorf("whoever can reach the address has written %d events", n)
	}
}

// A page in the operator's browser reads nothing, on neither door: not from
// another origin, and not under a name of its own that was made to point here.
func TestBrowserPagesAreRefused(t *testing.T) {
	s := serve(t)
	for _, c := range []struct {
		door, name, value string
		refused           bool
	}{
		{"loopback", "Origin", "https://evil.example", true},
		{"loopback", "Origin", "null", true},
		{"loopback", "Sec-Fetch-Site", "cross-site", true},
		{"loopback", "Sec-Fetch-Site", "same-site", true},
		{"loopback", "Host", "evil.example", true},
		{"loopback", "Host", "evil.example:7440", true},
		{"loopback", "Host", "127.0.0.1.evil.example", true},
		{"loopback", "Host", "192.0.2.1:7440", true},
		{"loopback", "Host", "localhost.evil.example", true},
		{"socket", "Origin", "https://evil.example", true},
		{"socket", "Sec-Fetch-Site", "cross-site", true},
		{"loopback", "Sec-Fetch-Site", "same-origin", false},
		{"loopback", "Sec-Fetch-Site", "none", false}, // typed into the address bar
		{"loopback", "Host", "localhost", false},
		{"loopback", "Host", "localhost:7440", false},
		{"loopback", "Host", "[::1]:7440", false},
		{"loopback", "Host", "127.0.0.1", false},
	} {
		r := request{door: c.door, method: "GET", path: "/api/v1/station", header: map[string]string{c.name: c.value}}
		if c.refused {
			s.refused(r, 403, "browser-refused")
		} else if status, text := s.ask(r); status != http.StatusOK {
			t.Errorf("%s: %s: %d %s", c.name, c.value, status, text)
		}
	}
}

// What is no request of the API is answered in the same form, and never with the
// value that was sent: it may be a passphrase in the wrong place.
func TestRequestsNotUnderstood(t *testing.T) {
	s := serve(t)
	const secret = "hunter2-hunter2"
	huge := strings.Repeat("x", 1<<20) // what the server leaves unread must fit its patience
	for _, c := range []struct {
		method, path, body string
		status             int
		says               string
	}{
		{"POST", "/unlock", `{"passphrase": ["` + secret + `"]}`, 422, "expected string (body.passphrase)"},
		{"POST", "/unlock", `{"pass": "` + secret + `"}`, 422, "(body"},
		{"POST", "/unlock", `{"passphrase": "` + secret, 400, "unexpected end of JSON input"},
		{"POST", "/unlock", `"` + secret + `"`, 422, "expected object (body)"},
		{"POST", "/unlock", ``, 400, "body is required"},
		{"POST", "/unlock", `{"passphrase": "` + huge + `"}`, 413, "too large"},
		{"POST", "/orders", `{}`, 422, "expected required property file to be present"},
		{"POST", "/orders", `{"file": "` + huge + `", "name": ""}`, 413, "too large"},
		{"POST", "/slots/a1/start", `[]`, 422, "expected object (body)"},
		{"GET", "/units?limit=0", "", 422, "(query.limit)"},
		{"GET", "/units?limit=10001", "", 422, "(query.limit)"},
		{"GET", "/units?limit=" + secret, "", 422, "(query.limit)"},
		{"GET", "/units?after=-x", "", 422, "(query.after)"},
		{"GET", "/units?state=" + secret, "", 422, "(query.state)"},
	} {
		p := s.refused(request{method: c.method, path: "/api/v1" + c.path, body: c.body}, c.status, "request-invalid")
		if !strings.Contains(p.Sentence, c.says) {
			t.Errorf("%s %s: %q, want it to say %q", c.method, c.path, p.Sentence, c.says)
		}
		if strings.Contains(p.Sentence, secret) {
			t.Errorf("%s %s: the answer tells the secret: %s", c.method, c.path, p.Sentence)
		}
	}
	for _, path := range []string{"/page", "/static/", "/static/page.html", "/index.html", "/api/v1", "/api/v1/nothing", "/api/v1/docs", "/api/v1/schemas/Slot.json", "/api/v2/station", "/api/v1/orders/../../../etc/passwd"} {
		s.refused(request{method: "GET", path: path}, 404, "path-unknown")
	}
	s.refused(request{method: "DELETE", path: "/api/v1/orders"}, 404, "path-unknown")
	s.refused(request{method: "GET", path: "/api/v1/orders/" + strings.Repeat("9", 10000)}, 404, "order-unknown")
	s.refused(request{method: "GET", path: "/api/v1/units/%00%0a%ff"}, 404, "unit-unknown")
	if n := s.home.Ledger.Size(); n != 0 {
		t.Errorf("requests that mean nothing have left %d events", n)
	}
}

// The description of the API is complete, and stands alone: nothing in it sends
// its reader to the network.
func TestOpenAPI(t *testing.T) {
	s := serve(t)
	_, text := s.ask(request{door: "loopback", method: "GET", path: "/api/v1/openapi.json"})
	if found := regexp.MustCompile(`[a-z]+://[^"]*`).FindAllString(text, -1); len(found) > 0 {
		t.Errorf("it refers to %q", found)
	}
	var document struct {
		Servers []struct{ URL string }
		Paths   map[string]map[string]struct{ OperationID, Summary string }
	}
	must(t, json.Unmarshal([]byte(text), &document))
	if len(document.Servers) != 1 || document.Servers[0].URL != "/api/v1" {
		t.Errorf("servers: %v", document.Servers)
	}
	var operations []string
	for path, methods := range document.Paths {
		for method, o := range methods {
			operations = append(operations, o.Summary)
			if o.OperationID == "" || o.Summary == "" {
				t.Errorf("%s %s has no name", method, path)
			}
		}
	}
	// The verbs are those of the commands.
	for _, verb := range []string{"station show", "unlock", "order open", "order list", "order show", "order close", "unit list", "unit show",
		"slot list", "slot start", "slot cancel", "slot watch", "order pick", "scan", "page", "ports", "push status", "push retry", "export"} {
		found := false
		for _, o := range operations {
			found = found || o == verb
		}
		if !found {
			t.Errorf("there is no %q among %q", verb, operations)
		}
	}
}

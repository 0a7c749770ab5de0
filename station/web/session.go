package web

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"net"
	"net/http"
	"sync"
	"time"
)

// keyLimit is how long a key may wait for the browser that opens the page.
const keyLimit = 5 * time.Minute

// pageHeader carries the token of a page that acts.
const pageHeader = "Nameplate-Page"

// sessions are the operator pages that may act. One begins with a key that
// somebody got through the socket. The browser then holds two secrets: a cookie,
// which no script can read, and a token, which the page's script keeps for its
// own origin. Either alone is worth nothing: a browser shows a cookie to every
// server on this host, whatever its port (RFC 6265 section 8.5), that of another
// user of the machine among them. Of all secrets only digests are kept, and none
// outlives the process.
type sessions struct {
	mu     sync.Mutex
	keys   map[digest]time.Time // each with its end; a used one is gone
	tokens map[digest]digest    // by cookie
}

type digest = [sha256.Size]byte

func newSessions() *sessions {
	return &sessions{keys: map[digest]time.Time{}, tokens: map[digest]digest{}}
}

// key makes a key that opens one page, once, until the time that is returned.
func (s *sessions) key(now time.Time) (string, time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for d, until := range s.keys { // those that nobody used
		if now.After(until) {
			delete(s.keys, d)
		}
	}
	key, until := secret(), now.Add(keyLimit)
	s.keys[sha256.Sum256([]byte(key))] = until
	return key, until
}

// open begins a session, if the key is good; the key is used up by that.
func (s *sessions) open(key string, now time.Time) (cookie, token string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := sha256.Sum256([]byte(key))
	until, known := s.keys[d]
	delete(s.keys, d)
	if !known || now.After(until) {
		return "", "", false
	}
	cookie, token = secret(), secret()
	s.tokens[sha256.Sum256([]byte(cookie))] = sha256.Sum256([]byte(token))
	return cookie, token, true
}

// token is the digest of the token that belongs to a request's cookie.
func (s *sessions) token(r *http.Request, address string) (digest, bool) {
	c, err := r.Cookie(cookieName(address))
	if err != nil {
		return digest{}, false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	d, ok := s.tokens[sha256.Sum256([]byte(c.Value))]
	return d, ok
}

// mayAct tells whether a request comes from a page of ours, at our own address,
// that was opened with a key. That Host names the same address as Origin, the
// guard has seen.
func (s *sessions) mayAct(r *http.Request, address string) bool {
	want, ok := s.token(r, address)
	got := sha256.Sum256([]byte(r.Header.Get(pageHeader)))
	return ok && subtle.ConstantTimeCompare(got[:], want[:]) == 1 &&
		r.Header.Get("Origin") == "http://"+address && r.Header.Get("Sec-Fetch-Site") == "same-origin"
}

// cookieName tells the stations of one host apart.
func cookieName(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return "nameplate-" + port
}

// secret is 32 random bytes, as text that fits a URL, a cookie and a header.
func secret() string {
	b := make([]byte, 32)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}

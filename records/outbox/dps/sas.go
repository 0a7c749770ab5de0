package dps

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"nameplate/records/outbox"
)

const (
	tokenLife = time.Hour
	// tokenSpare is how long before its end a token is replaced: longer than a
	// call takes, and than station and service may disagree about the time.
	tokenSpare = 10 * time.Minute
)

// tokens makes shared access signatures for the whole instance and keeps one
// until it is near its end.
type tokens struct {
	host   string
	policy string
	key    func() (outbox.Secret, error)

	mu      sync.Mutex
	token   string
	expires time.Time
}

func (t *tokens) get(now time.Time) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	// A token that ends too far away was made before the clock was set back.
	if left := t.expires.Sub(now); left > tokenSpare && left <= tokenLife {
		return t.token, nil
	}
	text, err := t.key()
	if err != nil {
		return "", denied("The key of the provisioning service cannot be read.", err)
	}
	defer clear(text)
	key, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	defer clear(key)
	if err != nil || len(key) == 0 {
		// The decoder's error would show a piece of the key.
		return "", denied("The key of the provisioning service is not base64.", nil)
	}
	// Without the monotonic reading, so that the comparison above sees steps.
	t.expires = now.Round(0).Add(tokenLife)
	t.token = sign(t.host, t.policy, key, t.expires)
	return t.token, nil
}

// forget drops a token that was refused; the key may have been replaced.
func (t *tokens) forget(token string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.token == token {
		t.token, t.expires = "", time.Time{}
	}
}

// sign makes the Authorization header. The signature is over the resource
// exactly as it stands in the token ("Control access to DPS": sr, newline, se).
func sign(host, policy string, key []byte, expires time.Time) string {
	sr := url.QueryEscape(strings.ToLower(host))
	se := strconv.FormatInt(expires.Unix(), 10)
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(sr + "\n" + se))
	return "SharedAccessSignature sr=" + sr + "&sig=" + url.QueryEscape(base64.StdEncoding.EncodeToString(mac.Sum(nil))) +
		"&se=" + se + "&skn=" + url.QueryEscape(policy)
}

// Package dps speaks to the enrollment API of the Device Provisioning Service
// (service API, api-version 2021-10-01). It creates and never overwrites: what
// the service holds already is compared, and either is the same identity or goes
// to a person.
//
// The service is not trusted to behave: answers are bounded in size and time,
// must have the documented shape, and their words are cleaned before they are
// shown. A redirect is never followed, so the token goes to one host only.
package dps

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strconv"
	"sync"
	"time"

	"nameplate/records"
	"nameplate/records/outbox"
)

const (
	apiVersion = "2021-10-01"
	// callLimit ends one request. The service answers a full bulk call within a
	// few seconds; a line over a bad link may need some more.
	callLimit = 30 * time.Second
	// maxAnswer bounds an answer: ten errors, or one record with its twin (the
	// service's message limit is 96 KB).
	maxAnswer = 1 << 20
	// maxHeader bounds an answer's headers.
	maxHeader = 64 << 10
	// maxRetryAfter bounds a wait that the service asks for: whatever it says, the
	// station looks again after an hour.
	maxRetryAfter = time.Hour
)

// Config is what a client is made of.
type Config struct {
	Endpoint string // the instance's service host, and a port if it is not 443
	Policy   string // shared access policy; it needs EnrollmentWrite and EnrollmentRead
	// Key reads the policy's key, base64, as the portal shows it. It is asked for
	// each new token, so that a key file can be replaced while the station runs.
	Key      func() (outbox.Secret, error)
	Settings Settings
	Roots    *x509.CertPool // nil: the system's
	// Pace is waited for before each request, the ones that compare included.
	Pace *outbox.Pace
}

// Client is one customer's instance. It is safe for concurrent use.
type Client struct {
	base     string
	settings Settings
	pace     *outbox.Pace
	tokens   *tokens
	http     *http.Client

	mu sync.Mutex
	// unseen counts, by registration ID, how often the service called an item a
	// conflict and then held nothing under its ID.
	unseen map[string]int
}

var _ outbox.Pusher = (*Client)(nil)

var hostForm = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$`)

// New makes a client. It does not talk to the service.
func New(c Config) (*Client, error) {
	host, port := c.Endpoint, "443"
	if h, p, err := net.SplitHostPort(c.Endpoint); err == nil {
		host, port = h, p
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || !hostForm.MatchString(host) {
		return nil, &records.Refusal{Code: "endpoint-invalid",
			Sentence: fmt.Sprintf("%q is not the address of a provisioning service.", c.Endpoint),
			Next:     "Write the service endpoint as NAME.azure-devices-provisioning.net, with :PORT only if it is not 443."}
	}
	if err := c.Settings.check(); err != nil {
		return nil, err
	}
	return &Client{
		base: "https://" + net.JoinHostPort(host, port), settings: c.Settings, pace: c.Pace, unseen: map[string]int{},
		tokens: &tokens{host: host, policy: c.Policy, key: c.Key},
		http: &http.Client{
			Timeout: callLimit,
			Transport: &http.Transport{
				Proxy:                  http.ProxyFromEnvironment,
				TLSClientConfig:        &tls.Config{RootCAs: c.Roots, MinVersion: tls.VersionTLS12},
				MaxResponseHeaderBytes: maxHeader,
				MaxIdleConnsPerHost:    16, // as many as the worker has calls under way
				IdleConnTimeout:        time.Minute,
				DisableCompression:     true,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// Close drops idle connections.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// answer is a response with its body read.
type answer struct {
	status int
	body   []byte
	wait   time.Time // from Retry-After; zero if there is none
}

// call makes one request and returns the body of a 200. Any other end is an
// *outbox.CallError.
func (c *Client) call(ctx context.Context, method, path string, body any) ([]byte, error) {
	var data []byte
	if body != nil {
		var err error
		if data, err = json.Marshal(body); err != nil {
			return nil, fmt.Errorf("encoding request: %w", err)
		}
	}
	if err := c.pace.Wait(ctx); err != nil {
		return nil, fmt.Errorf("waiting for the service's turn: %w", err)
	}
	token, err := c.tokens.get(time.Now())
	if err != nil {
		return nil, err
	}
	got, err := c.send(ctx, method, path, token, data)
	if err != nil {
		return nil, unreachable(c.tokens.host, err)
	}
	if !got.wait.IsZero() {
		// At once, so that nothing else that is waiting for its turn goes out.
		c.pace.Hold(got.wait)
	}
	if got.status == http.StatusUnauthorized {
		c.tokens.forget(token)
	}
	if got.status != http.StatusOK {
		return nil, c.trouble(got)
	}
	return got.body, nil
}

func (c *Client) send(ctx context.Context, method, path, token string, data []byte) (answer, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.base+path+"?api-version="+apiVersion, bytes.NewReader(data))
	if err != nil {
		return answer{}, fmt.Errorf("making request: %w", err)
	}
	req.Header.Set("Authorization", token)
	req.Header.Set("Accept", "application/json")
	req.Header.Set("User-Agent", "nameplate")
	if data != nil {
		req.Header.Set("Content-Type", "application/json; charset=utf-8")
	}
	res, err := c.http.Do(req)
	if err != nil {
		return answer{}, fmt.Errorf("calling the service: %w", err)
	}
	defer res.Body.Close()
	got := answer{status: res.StatusCode, wait: retryAfter(res.Header.Get("Retry-After"), res.StatusCode, time.Now())}
	if got.body, err = io.ReadAll(io.LimitReader(res.Body, maxAnswer+1)); err != nil {
		return answer{}, fmt.Errorf("reading the service's answer: %w", err)
	}
	media, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	if len(got.body) > maxAnswer || media != "application/json" {
		got.body = nil // nothing that could be meant for us
	}
	return got, nil
}

// retryAfter reads the header of an answer that asks to wait: seconds, or a date
// (RFC 9110, section 10.2.3). At least a second, at most maxRetryAfter.
func retryAfter(header string, status int, now time.Time) time.Time {
	if header == "" || status != http.StatusTooManyRequests && status != http.StatusServiceUnavailable {
		return time.Time{}
	}
	wait := maxRetryAfter
	if seconds, err := strconv.ParseUint(header, 10, 31); err == nil {
		wait = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(header); err == nil {
		wait = at.Sub(now)
	} else if !digits.MatchString(header) {
		return time.Time{}
	}
	return now.Add(min(max(wait, time.Second), maxRetryAfter))
}

var digits = regexp.MustCompile(`^[0-9]+$`)

func enrollmentPath(id string) string { return "/enrollments/" + url.PathEscape(id) }

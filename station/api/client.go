package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// callLimit bounds one call; an export of a large order is the slowest.
const callLimit = 10 * time.Minute

// maxAnswer bounds what a call reads.
const maxAnswer = 64 << 20

// ErrNoStation is wrapped when nothing listens on the socket: the daemon is down.
var ErrNoStation = errors.New("no station is running here")

// Client speaks to a station's daemon.
type Client struct {
	http  *http.Client
	actor string
}

// Dial makes a client for the daemon behind a unix socket. actor ("badge:4711",
// "account:anna") is who acts; it may be empty.
func Dial(socket, actor string) *Client {
	return &Client{actor: actor, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			var d net.Dialer
			c, err := d.DialContext(ctx, "unix", socket)
			if err != nil {
				return nil, fmt.Errorf("%w: %w", ErrNoStation, err)
			}
			return c, nil
		}}}}
}

func (c *Client) request(ctx context.Context, method, path string, in any) (*http.Response, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("encoding request: %w", err)
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://station/api/v1"+path, body)
	if err != nil {
		return nil, fmt.Errorf("making request: %w", err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if c.actor != "" {
		req.Header.Set("Nameplate-Actor", c.actor)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking the station: %w", err)
	}
	if resp.StatusCode >= 300 {
		defer resp.Body.Close()
		var p Problem
		if json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&p) != nil || p.Code == "" {
			return nil, fmt.Errorf("asking the station: %s %s answered %s", method, path, resp.Status)
		}
		return nil, &p
	}
	return resp, nil
}

func call[T any](ctx context.Context, c *Client, method, path string, in any) (T, error) {
	var out T
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	resp, err := c.request(ctx, method, path, in)
	if err != nil {
		return out, err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusNoContent {
		return out, nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&out); err != nil {
		return out, fmt.Errorf("reading the station's answer: %w", err)
	}
	return out, nil
}

type none struct{}

// Station is the daemon's own state.
func (c *Client) Station(ctx context.Context) (Station, error) {
	return call[Station](ctx, c, "GET", "/station", nil)
}

// Unlock opens the station's keys.
func (c *Client) Unlock(ctx context.Context, passphrase string) error {
	_, err := call[none](ctx, c, "POST", "/unlock", Unlock{passphrase})
	return err
}

// OpenPage asks for an address that opens the operator page, so that it may act.
func (c *Client) OpenPage(ctx context.Context) (Page, error) {
	return call[Page](ctx, c, "POST", "/page", none{})
}

// OpenOrder opens a work order from its file.
func (c *Client) OpenOrder(ctx context.Context, o OpenOrder) (Order, error) {
	return call[Order](ctx, c, "POST", "/orders", o)
}

// Orders lists all orders.
func (c *Client) Orders(ctx context.Context) ([]Order, error) {
	return call[[]Order](ctx, c, "GET", "/orders", nil)
}

// Order finds one by its number.
func (c *Client) Order(ctx context.Context, id string) (Order, error) {
	return call[Order](ctx, c, "GET", "/orders/"+url.PathEscape(id), nil)
}

// CloseOrder ends an order; claims for which nothing was made are given back.
func (c *Client) CloseOrder(ctx context.Context, id, reason string) (Order, error) {
	return call[Order](ctx, c, "POST", "/orders/"+url.PathEscape(id)+"/close", CloseOrder{reason})
}

// Slots are the slots as they are now.
func (c *Client) Slots(ctx context.Context) ([]Slot, error) {
	return call[[]Slot](ctx, c, "GET", "/slots", nil)
}

// StartSlot asks for a passage with what is in the slot; an empty order keeps the
// slot's own. It returns before the passage ends.
func (c *Client) StartSlot(ctx context.Context, slot, order string) error {
	_, err := call[none](ctx, c, "POST", "/slots/"+url.PathEscape(slot)+"/start", StartSlot{order})
	return err
}

// PickOrder makes an order that of a slot, or of all slots in which nothing runs.
func (c *Client) PickOrder(ctx context.Context, order, slot string) (Picked, error) {
	return call[Picked](ctx, c, "POST", "/orders/"+url.PathEscape(order)+"/pick", PickOrder{slot})
}

// CancelSlot stops the running passage.
func (c *Client) CancelSlot(ctx context.Context, slot string) error {
	_, err := call[none](ctx, c, "POST", "/slots/"+url.PathEscape(slot)+"/cancel", none{})
	return err
}

// Pushes is what is still to be made known, by customer.
func (c *Client) Pushes(ctx context.Context) ([]Push, error) {
	return call[[]Push](ctx, c, "GET", "/push", nil)
}

// RetryPush puts an enrollment that was set aside back among those due.
func (c *Client) RetryPush(ctx context.Context, unit string) error {
	_, err := call[none](ctx, c, "POST", "/push/"+url.PathEscape(unit)+"/retry", none{})
	return err
}

// Export writes a batch on the station's machine.
func (c *Client) Export(ctx context.Context, e Export) (Exported, error) {
	return call[Exported](ctx, c, "POST", "/exports", e)
}

// Watch calls on with every change of a slot, each slot's present state first,
// until ctx ends or the station goes away.
func (c *Client) Watch(ctx context.Context, on func(Slot)) error {
	resp, err := c.request(ctx, "GET", "/slots/watch", nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var s Slot
		if err := json.Unmarshal([]byte(data), &s); err != nil {
			return fmt.Errorf("reading the station's events: %w", err)
		}
		on(s)
	}
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("watching the station: %w", errors.Join(lines.Err(), io.ErrUnexpectedEOF))
}

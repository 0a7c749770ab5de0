package link_test

import (
	"strings"
	"testing"

	"nameplate/flasher/link"
)

func TestParse(t *testing.T) {
	for _, uri := range []string{
		"/dev/ttyUSB0",
		"/dev/serial/by-id/usb-Silicon_Labs_CP2102N_0001-if00-port0",
		"rfc2217://127.0.0.1:2217",
		"rfc2217://[::1]:65535",
		"rfc2217://rack-3.factory.example:4001",
	} {
		port, err := link.Parse(uri)
		if err != nil {
			t.Errorf("%s: %v", uri, err)
		} else if port.Path() != uri {
			t.Errorf("%s: path is %s", uri, port.Path())
		}
	}
	const address = "want rfc2217://host:port with a port number from 1 to 65535"
	for uri, text := range map[string]string{
		"":                                  "want /dev/... (a serial port; /dev/serial/by-id/... keeps its name) or rfc2217://host:port (a device server)",
		"ttyUSB0":                           "want /dev/...",
		"COM3":                              "want /dev/...",
		"telnet://host:23":                  "want /dev/...",
		"rfc2217://":                        address,
		"rfc2217://host":                    address,
		"rfc2217://:2217":                   address,
		"rfc2217://host:0":                  address,
		"rfc2217://host:65536":              address,
		"rfc2217://host:2217/x":             address,
		"rfc2217://a b:2217":                address,
		"rfc2217://user@host:2217":          address,
		"rfc2217://host:2217?logging=debug": address,
		"rfc2217://::1:2217":                address,
		"rfc2217://" + strings.Repeat("a", 90) + ":1": "longer than 80 characters",
	} {
		if _, err := link.Parse(uri); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v", uri, err)
		}
	}
}

package profile_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nameplate/flasher"
	"nameplate/station/profile"
)

const (
	stationYAML = `name: line-1
listen: 127.0.0.1:7440
operator: badge-1
slots:
  - name: a1
    port: /dev/ttyUSB0
    order: WO-1
  - name: a2
    port: rfc2217://127.0.0.1:4001
    start: request
`
	productYAML = `name: p1
family: espressif
attestation: x509
key: injected
registration_id: dev-{serial}
options:
  chip: ESP32-C3
  baud: 921600
  store:
    format: nvs
    keys:
      registration_id: id
certificate:
  valid_days: 365
limits:
  write: 90s
`
	customerYAML = `name: c1
registration_url: register.example
id_scope: 0ne0000A001
service:
  endpoint: enroll.example:9443
  policy: enroll
  key_file: c1.key
enrollment:
  allocation_policy: hashed
`
	orderYAML = `id: WO-1
customer: c1
product: p1
quota: 10
serial:
  format: A%04d
valid_until: 2035-12-31
`
)

// folder writes a good station folder, with one file changed: old → new.
func folder(t *testing.T, file, old, new string) string {
	t.Helper()
	dir := t.TempDir()
	files := map[string]string{"station.yaml": stationYAML, "products/p1.yaml": productYAML,
		"customers/c1.yaml": customerYAML, "orders/o1.yaml": orderYAML}
	if file != "" {
		if !strings.Contains(files[file], old) {
			t.Fatalf("%s holds no %q", file, old)
		}
		files[file] = strings.Replace(files[file], old, new, 1)
	}
	for name, text := range files {
		write(t, filepath.Join(dir, name), text, 0o644)
	}
	return dir
}

func write(t *testing.T, path, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// load loads a folder and its order, and returns the problems as a user sees
// them, without the folder's name.
func load(t *testing.T, dir string) string {
	t.Helper()
	set, err := profile.Load(dir)
	if err == nil {
		var o profile.Order
		if o, err = parseOrder(filepath.Join(dir, "orders/o1.yaml")); err == nil {
			_, err = set.Resolve(o)
		}
	}
	if err == nil {
		return ""
	}
	var problems profile.Problems
	if !errors.As(err, &problems) {
		t.Fatalf("not Problems: %v", err)
	}
	return strings.ReplaceAll(err.Error(), dir+"/", "")
}

func TestProblems(t *testing.T) {
	const station, product, customer, order = "station.yaml", "products/p1.yaml", "customers/c1.yaml", "orders/o1.yaml"
	for _, c := range []struct{ file, old, new, want string }{
		{"", "", "", ""},

		// What is wrong with a file as such.
		{station, stationYAML, "", `station.yaml:1: the file is empty; expected keys and values; copy one from the examples in configs/`},
		{station, stationYAML, "# nothing\n", `station.yaml:1: the file is empty; expected keys and values; copy one from the examples in configs/`},
		{station, "operator: badge-1\n", "operator: badge-1\n---\n", `station.yaml:5: a second document starts here; expected one document in a file; move it to a file of its own`},
		{station, "listen: 127", "listen: [127", `station.yaml:3: this is not YAML: ',' or ']' must be specified; expected lines of the form key: value, indented with spaces; correct the line or the one before it`},
		{station, stationYAML, "just text", `station.yaml:1: the file is one piece of text; expected a section of keys and values; correct the value`},
		{station, stationYAML, "a: " + strings.Repeat("x", 70000), `station.yaml:1: the file has more than 32768 bytes; expected a hand-written settings file; check that it is the right one`},

		// Keys and types.
		{station, "listen:", "lissten:", `station.yaml:2: unknown key "lissten"; expected one of name, listen, socket, operator, slots; did you mean "listen"?`},
		{station, "operator:", "colour:", `station.yaml:3: unknown key "colour"; expected one of name, listen, socket, operator, slots; remove it`},
		{station, "    start: request", "    begin: request", `station.yaml:10: unknown key "begin"; expected one of name, port, order, start, at; remove it`},
		{station, "operator: badge-1", "name: x", `station.yaml:3: name stands here a second time; expected each key once (first in line 1); remove one of them`},
		{station, "name: line-1\n", "", `station.yaml:1: name is missing; expected text; add the key`},
		{station, "    port: /dev/ttyUSB0\n", "", `station.yaml:5: slots[0].port is missing; expected text; add the key`},
		{station, "name: line-1", "name:", `station.yaml:1: name has no value; expected text; write one, or remove the key if it is optional`},
		{station, "operator: badge-1", "operator: 0007", `station.yaml:3: operator is "0007"; expected text; put it in quotes: "0007"`},
		{station, "name: line-1", "name: [a]", `station.yaml:1: name is a list; expected text; correct the value`},
		{station, "name: line-1", "name: {a: b}", `station.yaml:1: name is a section; expected text; correct the value`},
		{station, "name: line-1", "name: |\n  line-1", `station.yaml:1: name is a block of lines; expected text; correct the value`},
		{station, "name: line-1", "name: &n line-1", `station.yaml:1: name uses an anchor, alias or tag; expected a plain value; write the value out`},
		{station, "name: line-1", "name: !!str line-1", `station.yaml:1: name uses an anchor, alias or tag; expected a plain value; write the value out`},
		{product, "  baud: 921600", `  baud: "921600"`, `products/p1.yaml:8: options.baud is "921600"; expected a whole number; correct the value`},
		{product, "  baud: 921600", `  baud: 0x100`, `products/p1.yaml:8: options.baud is "0x100"; expected a whole number; correct the value`},
		{product, "  write: 90s", "  write: 90", `products/p1.yaml:16: limits.write is "90"; expected a duration such as 30s or 2m; correct the value`},
		{product, "  write: 90s", "  write: soon", `products/p1.yaml:16: limits.write is "soon"; expected a duration such as 30s or 2m; correct the value`},
		{product, "    keys:\n      registration_id: id", "    keys: id", `products/p1.yaml:11: options.store.keys is "id"; expected a section of keys and values; correct the value`},
		{customer, "  allocation_policy: hashed", "  reprovision: {update_hub_assignment: 1}", `customers/c1.yaml:9: enrollment.reprovision.update_hub_assignment is "1"; expected true or false; correct the value`},
		{order, "quota: 10", "quota: many", `orders/o1.yaml:4: quota is "many"; expected a whole number; correct the value`},
		{order, "quota: 10", "quota: 010", `orders/o1.yaml:4: quota is "010"; expected a whole number; correct the value`},
		{order, "2035-12-31", "2035-13-31", `orders/o1.yaml:7: valid_until is "2035-13-31"; expected a time such as 2030-12-31T18:00:00Z, or a date; correct the value`},
		{order, "2035-12-31", "12", `orders/o1.yaml:7: valid_until is "12"; expected a time such as 2030-12-31T18:00:00Z, or a date; correct the value`},

		// The station.
		{station, "line-1", "Line 1", `station.yaml:1: name "Line 1" cannot be a name; expected 1 to 32 lower-case letters, digits and inner hyphens; choose another name`},
		{station, "127.0.0.1:7440", "0.0.0.0:7440", `station.yaml:2: listen is "0.0.0.0:7440"; expected a loopback address and a port, such as 127.0.0.1:7440; serve others through a proxy that checks who they are`},
		{station, "127.0.0.1:7440", "localhost:7440", `station.yaml:2: listen is "localhost:7440"; expected a loopback address and a port, such as 127.0.0.1:7440; serve others through a proxy that checks who they are`},
		{station, "operator: badge-1", "socket: ../s", `station.yaml:3: socket is "../s"; expected a path within the station's folder, or an absolute one; correct the path`},
		{station, "badge-1", "Ms Example", `station.yaml:3: operator "Ms Example" cannot be a badge; expected 1 to 32 letters, digits and - . _; write the badge's number, not a name`},
		{station, stationYAML[strings.Index(stationYAML, "slots"):], "slots: []\n", `station.yaml:4: slots is empty; expected at least one slot; add one with name and port`},
		{station, "name: a2", "name: a1", `station.yaml:8: slot "a1" stands here a second time; expected each name once (first in line 5); choose another name`},
		{station, "rfc2217://127.0.0.1:4001", "/dev/ttyUSB0", `station.yaml:9: port /dev/ttyUSB0 stands here a second time; expected each port once (first in line 6); give the slot its own port`},
		{station, "/dev/ttyUSB0", "COM3", `station.yaml:6: slots[0].port is "COM3"; expected /dev/… or rfc2217://HOST:PORT; see 'station ports' for what is connected`},
		{station, "/dev/ttyUSB0", "/dev/../etc/passwd", `station.yaml:6: slots[0].port is "/dev/../etc/passwd"; expected /dev/… or rfc2217://HOST:PORT; see 'station ports' for what is connected`},
		{station, "rfc2217://127.0.0.1:4001", "rfc2217://127.0.0.1", `station.yaml:9: slots[1].port is "rfc2217://127.0.0.1"; expected /dev/… or rfc2217://HOST:PORT; see 'station ports' for what is connected`},
		{station, "order: WO-1", "at: {row: 0, column: 17}", `station.yaml:7: slots[0].at.row is 0; expected 1 to 16, from the fixture's top left; correct the number
station.yaml:7: slots[0].at.column is 17; expected 1 to 16, from the fixture's top left; correct the number`},
		{station, "order: WO-1", "at: {row: 1}", `station.yaml:7: slots[0].at.column is missing; expected a whole number; add the key`},
		{station, "order: WO-1", "at: top left", `station.yaml:7: slots[0].at is "top left"; expected a section of keys and values; correct the value`},
		{station, "order: WO-1", "at: {row: 1, column: 1}", `station.yaml:8: slot "a2" has no place in the fixture, others have; expected at: {row: ROW, column: COLUMN} for all slots, or for none; add it`},
		{station, "/dev/ttyUSB0\n    order: WO-1\n  - name: a2\n", "/dev/ttyUSB0\n    at: {row: 2, column: 3}\n  - name: a2\n    at: {row: 2, column: 3}\n",
			`station.yaml:9: row 2, column 3 holds a second slot; expected each place once (first in line 7); give the slot its own place`},
		{station, "/dev/ttyUSB0\n    order: WO-1\n  - name: a2\n", "/dev/ttyUSB0\n    at: {row: 2, column: 3}\n  - name: a2\n    at: {row: 3, column: 2}\n", ""},
		{station, "WO-1", "W O", `station.yaml:7: slots[0].order is "W O"; expected 1 to 64 letters, digits and - . _; write the order's id`},
		{station, "start: request", "start: now", `station.yaml:10: slots[1].start is "now"; expected auto or request; choose one of them`},

		// Products.
		{product, "name: p1", "name: p2", `products/p1.yaml:1: the name is "p2", but the file is p1.yaml; expected "p1"; rename the file, or correct the name`},
		{product, "espressif", "stm32", `products/p1.yaml:2: family is "stm32"; expected espressif or linux; choose one of them`},
		{product, "x509", "tpm", `products/p1.yaml:3: attestation is "tpm"; expected symmetricKey or x509; choose one of them`},
		{product, "x509\nkey: injected", "symmetricKey", `products/p1.yaml:12: certificate is only for attestation x509; expected no such section; remove it`},
		{product, "x509\nkey: injected", "x509", `products/p1.yaml:1: key is missing; expected injected, or for family linux device or tpm; say where the private key is made: add key: injected`},
		{product, "injected", "device", `products/p1.yaml:4: chips of family espressif cannot yet make their own key here; expected injected; use injected, or wait for a version that supports it`},
		{product, "injected", "smuggled", `products/p1.yaml:4: key is "smuggled"; expected injected; choose one of them`},
		{product, "dev-{serial}", "dev", `products/p1.yaml:5: registration_id "dev" is the same for every unit; expected {serial} or {mac} in it; add one of them`},
		{product, "dev-{serial}", "dev-{serial}-{imei}", `products/p1.yaml:5: registration_id holds {imei}; expected {serial} and {mac} only; correct the template`},
		{product, "dev-{serial}", "'dev-{serial'", `products/p1.yaml:5: registration_id holds {; expected {serial} and {mac} only; correct the template`},
		{product, "ESP32-C3", "esp32c3", `products/p1.yaml:7: options.chip is "esp32c3"; expected a chip as the maker writes it, such as ESP32-C3; correct the value`},
		{product, "921600", "300", `products/p1.yaml:8: options.baud is 300; expected a number from 9600 to 3000000; correct the value`},
		{product, "format: nvs", "format: spiffs", `products/p1.yaml:10: options.store.format is "spiffs"; expected nvs; choose one of them`},
		{product, "format: nvs", "format: nvs\n    partition: far-too-long-label", `products/p1.yaml:11: options.store.partition is "far-too-long-label"; expected 1 to 16 printable characters; write the label from the device's partition table`},
		{product, "format: nvs", "format: nvs\n    namespace: sixteen-letters-", `products/p1.yaml:11: options.store.namespace is "sixteen-letters-"; expected 1 to 15 printable characters without spaces; correct the value`},
		{product, "registration_id: id", "registration_id: registration_id_", `products/p1.yaml:12: options.store.keys.registration_id is "registration_id_"; expected 1 to 15 printable characters without spaces; correct the value`},
		{product, "registration_id: id", "registration_id: cert", `products/p1.yaml:12: key "cert" is that of certificate and of registration_id; expected a key of its own for each item; change one of them`},
		{product, "      registration_id: id", "      serial: id", `products/p1.yaml:12: "serial" is no item of an identity; expected one of certificate, id_scope, private_key, registration_id, registration_url, symmetric_key; correct the name`},
		{product, "certificate:\n  valid_days: 365\n", "", `products/p1.yaml:1: certificate is missing; expected a section with valid_days; add it`},
		{product, "365", "0", `products/p1.yaml:14: certificate.valid_days is 0; expected a number from 1 to 36500; correct the value`},
		{product, "365", "365\n  organization: " + strings.Repeat("x", 65), `products/p1.yaml:15: certificate.organization is too long or holds control characters; expected at most 64 characters; shorten it`},
		{product, "write: 90s", "write: 2h", `products/p1.yaml:16: limits.write is 2h0m0s; expected a duration from 1s to 1h; correct the value`},
		{product, "write: 90s", "passage: 2m", `products/p1.yaml:16: limits.passage is 2m0s; expected at least the sum of identify, write and verify (3m30s); raise it, or lower one of them`},
		{product, "limits:\n  write: 90s\n", "lock:\n  secure_boot: true\n", `products/p1.yaml:15: lock is not yet supported by this version; expected no such section; remove the section`},
		{product, "limits:\n  write: 90s\n", "label: {}\n", `products/p1.yaml:15: label is not yet supported by this version; expected no such section; remove the section`},

		// Customers.
		{customer, "name: c1", "name: c2", `customers/c1.yaml:1: the name is "c2", but the file is c1.yaml; expected "c1"; rename the file, or correct the name`},
		{customer, "register.example", "https://register.example/", `customers/c1.yaml:2: registration_url is "https://register.example/"; expected a host name, or HOST:PORT, without https:// and path; correct the value`},
		{customer, "0ne0000A001", "0ne0000A01", `customers/c1.yaml:3: id_scope is "0ne0000A01"; expected 0ne and 8 letters or digits; copy it from the service's overview`},
		{customer, "enroll.example:9443", "enroll.example:x", `customers/c1.yaml:5: service.endpoint is "enroll.example:x"; expected a host name, or HOST:PORT, without https:// and path; correct the value`},
		{customer, "policy: enroll", "policy: a b", `customers/c1.yaml:6: service.policy is "a b"; expected the name of a shared access policy; copy it from the service`},
		{customer, "c1.key", "/etc/c1.key", `customers/c1.yaml:7: service.key_file is "/etc/c1.key"; expected a path within the station's folder; put the file there`},
		{customer, "c1.key", "c1.key\n  ca_file: ../ca.pem", `customers/c1.yaml:8: service.ca_file is "../ca.pem"; expected a path within the station's folder; put the file there`},
		{customer, "c1.key", "c1.key\n  per_minute: 0", `customers/c1.yaml:8: service.per_minute is 0; expected a number from 1 to 100000; correct the value`},
		{customer, "hashed", "custom", `customers/c1.yaml:9: enrollment.allocation_policy is "custom"; expected hashed or geoLatency or static; choose one of them`},
		{customer, "hashed", "static", `customers/c1.yaml:9: allocation_policy static names no hub; expected iothub_hostname beside it; add it, or choose another policy`},
		{customer, "hashed", "hashed\n  iothub_hostname: hub.example", `customers/c1.yaml:10: iothub_hostname has no effect; expected allocation_policy: static beside it; add that, or remove the hub`},
		{customer, "hashed", "static\n  iothub_hostname: https://hub", `customers/c1.yaml:10: iothub_hostname is "https://hub"; expected a host name, or HOST:PORT, without https:// and path; correct the value`},

		// Orders, by themselves and with what they refer to.
		{order, "id: WO-1", "id: '../WO'", `orders/o1.yaml:1: id is "../WO"; expected 1 to 64 letters, digits and - . _; correct the value`},
		{order, "quota: 10", "quota: 0", `orders/o1.yaml:4: quota is 0; expected a number from 1 to 10000000; correct the value`},
		{order, "A%04d", "A%04d%d", `orders/o1.yaml:6: serial.format is "A%04d%d"; expected letters, digits and - . _ : around one %d or %0Nd, such as A%06d; correct the format`},
		{order, "A%04d", "A%s", `orders/o1.yaml:6: serial.format is "A%s"; expected letters, digits and - . _ : around one %d or %0Nd, such as A%06d; correct the format`},
		{order, "A%04d", "A", `orders/o1.yaml:6: serial.format is "A"; expected letters, digits and - . _ : around one %d or %0Nd, such as A%06d; correct the format`},
		{order, "A%04d", "A%*d", `orders/o1.yaml:6: serial.format is "A%*d"; expected letters, digits and - . _ : around one %d or %0Nd, such as A%06d; correct the format`},
		{order, "A%04d", "A%%%04d", `orders/o1.yaml:6: serial.format is "A%%%04d"; expected letters, digits and - . _ : around one %d or %0Nd, such as A%06d; correct the format`},
		{order, "A%04d", "A%099d", `orders/o1.yaml:6: serial.format asks for 99 digits; expected at most 18; correct the format`},
		{order, "A%04d", "A%04d\n  first: -1", `orders/o1.yaml:7: serial.first is -1; expected a number from 0 to 9223372036844775807; correct the value`},
		{order, "A%04d", "A%04d\n  first: 9995", `orders/o1.yaml:6: the last serial's number, 10004, has 5 digits; expected at most the 4 that the format has room for; widen the format, or lower first or quota`},
		{order, "customer: c1", "customer: c9", `orders/o1.yaml:2: there is no customer "c9"; expected one of c1; correct the name, or add customers/c9.yaml`},
		{order, "product: p1", "product: p9", `orders/o1.yaml:3: there is no product "p9"; expected one of p1; correct the name, or add products/p9.yaml`},
		{product, "dev-{serial}", "-{serial}", `products/p1.yaml:5: with order WO-1, unit 1: "-a0001" cannot be a registration ID: 1 to 128 letters, digits and - . _ : with a letter or digit at both ends; expected a legal registration ID for every unit; change registration_id here, or the order's serial.format`},
		{product, "dev-{serial}", "dev/{serial}", `products/p1.yaml:5: with order WO-1, unit 1: "dev/a0001" cannot be a registration ID: 1 to 128 letters, digits and - . _ : with a letter or digit at both ends; expected a legal registration ID for every unit; change registration_id here, or the order's serial.format`},
		{product, "dev-{serial}", "d{mac}-" + strings.Repeat("x", 50) + "{serial}", `products/p1.yaml:5: with order WO-1, unit 1: "d00005e005301-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxa0001" has 69 characters; a certificate's common name takes 64; expected a legal registration ID for every unit; change registration_id here, or the order's serial.format`},
	} {
		got := load(t, folder(t, c.file, c.old, c.new))
		if got != c.want {
			t.Errorf("%s: %.60q → %.60q\n got %s\nwant %s", c.file, c.old, c.new, got, c.want)
		}
	}
}

const gatewayYAML = `name: p1
family: linux
attestation: x509
key: tpm
registration_id: gw-{serial}
tpm:
  ek_certificate: require
  roots: tpm-roots
options:
  chip: Example Gateway 2
  console:
    user: root
    password_file: secrets/console
  key:
    handle: "0x81000010"
  store:
    format: files
    files:
      - path: /etc/id
        text: |
          id={registration_id}
certificate:
  valid_days: 365
`

// Boards with a shell, and their TPMs.
func TestProblemsOfLinux(t *testing.T) {
	const store, key = "    format: files\n    files:\n      - path: /etc/id\n        text: |\n          id={registration_id}\n", "  key:\n    handle: \"0x81000010\"\n"
	for _, c := range []struct{ old, new, want string }{
		{"", "", ``},
		{"gw-{serial}", "gw-{ek}", ``},
		{"linux", "espressif", `products/p1.yaml:4: chips of family espressif cannot yet make their own key here; expected injected; use injected, or wait for a version that supports it
products/p1.yaml:10: options.chip is "Example Gateway 2"; expected a chip as the maker writes it, such as ESP32-C3; correct the value
products/p1.yaml:11: options.console is only for family linux; expected no such key; remove it
products/p1.yaml:14: options.key is only for family linux; expected no such key; remove it
products/p1.yaml:17: options.store.format is "files"; expected nvs; choose one of them
products/p1.yaml:18: options.store.files is only for family linux; expected no such key; remove it`},
		{"key: tpm", "key: chip", `products/p1.yaml:4: key is "chip"; expected injected or device or tpm; choose one of them
products/p1.yaml:6: tpm is only for attestation tpm and for key tpm; expected no such section; remove it
products/p1.yaml:15: options.key.handle is only for key tpm; expected no such key; remove it`},
		{"tpm:\n  ek_certificate: require\n  roots: tpm-roots\n", "", `products/p1.yaml:1: tpm is missing; expected a section with ek_certificate; say what is asked of the endorsement key's certificate`},
		{"require", "demand", `products/p1.yaml:7: tpm.ek_certificate is "demand"; expected require or record or none; choose one of them`},
		{"  roots: tpm-roots\n", "", `products/p1.yaml:6: tpm.roots is missing; expected a folder with the TPM makers' roots; add the key, or set ek_certificate: none`},
		{"require", "none", `products/p1.yaml:8: tpm.roots has no effect with ek_certificate: none; expected no such key; remove it, or choose another policy`},
		{"require", "require\n  ek: p-384", ``},
		{"registration_id: gw-{serial}\ntpm:", "registration_id: gw-{ek}\ntpm:\n  ek: p-384", `products/p1.yaml:5: registration_id holds {ek}, and tpm.ek is p-384; expected {ek} for rsa-2048 only; use {serial} or {mac}`},
		{"registration_id: gw-{serial}\ntpm:", "registration_id: gw-{ek}\ntpm:\n  ek: rsa-2048", ``},
		{"require", "require\n  ek: rsa-1024", `products/p1.yaml:8: tpm.ek is "rsa-1024"; expected rsa-2048 or p-256 or p-384; choose one of them`},
		{"tpm-roots", "/etc/ssl", `products/p1.yaml:8: tpm.roots is "/etc/ssl"; expected a path within the station's folder; put the file there`},
		{"Example Gateway 2", "' '", `products/p1.yaml:10: options.chip is " "; expected the board's model as its device tree or its DMI table says it; correct the value`},
		{"  console:", "  interface: eth 0\n  console:", `products/p1.yaml:11: options.interface is "eth 0"; expected the name of a network interface, such as eth0; correct the value`},
		{"  console:\n    user: root\n    password_file: secrets/console\n", "", `products/p1.yaml:9: options.console is missing; expected a section with user and password_file; say how one logs in on the console`},
		{"user: root", "user: Root me", `products/p1.yaml:12: options.console.user is "Root me"; expected a login name; correct the value`},
		{"secrets/console", "../console", `products/p1.yaml:13: options.console.password_file is "../console"; expected a path within the station's folder; put the file there`},
		{`"0x81000010"`, `"0x81000001"`, `products/p1.yaml:15: options.key.handle is "0x81000001"; expected "0x81000002" to "0x8100ffff", but 0x81000100; choose a handle that nothing else on the device uses`},
		{`"0x81000010"`, `"0x81010001"`, `products/p1.yaml:15: options.key.handle is "0x81010001"; expected "0x81000002" to "0x8100ffff", but 0x81000100; choose a handle that nothing else on the device uses`},
		{key, "  key:\n    path: /a\n", `products/p1.yaml:15: options.key.path is only for key device; expected no such key; remove it`},
		{key, key + "    pkcs11:\n      module: usr/lib/m.so\n      uri: token=x\n", `products/p1.yaml:17: options.key.pkcs11.module is "usr/lib/m.so"; expected an absolute path of letters, digits and / . _ @ + -; correct the path
products/p1.yaml:18: options.key.pkcs11.uri is "token=x"; expected a pkcs11: URI (RFC 7512); write it as the image's maker has set the key up`},
		{store, "    format: aziot\n", `products/p1.yaml:17: aziot reaches a key in the TPM through PKCS#11 only; expected options.key.pkcs11, or format files; add module and URI if the image has them, else use format files with {key_handle}`},
		{store, "    format: nvs\n", `products/p1.yaml:17: options.store.format is "nvs"; expected aziot or files; choose one of them`},
		{store, "    format: files\n", `products/p1.yaml:16: options.store.files is empty; expected at least one file with path and text; add the files that the device reads`},
		{store, store + "    partition: nvs\n", `products/p1.yaml:22: options.store.partition is only for family espressif; expected no such key; remove it`},
		{store, store + "    config: {path: /a}\n", `products/p1.yaml:22: options.store.config is only for family linux with format aziot; expected no such key; remove it`},
		{"/etc/id", "/etc/../id", `products/p1.yaml:19: options.store.files[0].path is "/etc/../id"; expected an absolute path of letters, digits and / . _ @ + -; correct the path`},
		{"/etc/id", "/etc/id\n        mode: 0600", `products/p1.yaml:20: options.store.files[0].mode is "0600"; expected text; put it in quotes: "0600"`},
		{"/etc/id", "/etc/id\n        mode: \"4755\"", `products/p1.yaml:20: options.store.files[0].mode is "4755"; expected four octal digits, such as "0600"; correct the value`},
		{"/etc/id", "/etc/id\n        owner: Jane Doe", `products/p1.yaml:20: options.store.files[0].owner is "Jane Doe"; expected USER or USER:GROUP; correct the value`},
		{"          id={registration_id}\n", "          id={registration_id}\n      - path: /etc/id\n        text: x\n", `products/p1.yaml:22: /etc/id stands here a second time; expected each file once; remove one of them`},
		{"        text: |\n          id={registration_id}\n", "", `products/p1.yaml:19: options.store.files[0].text is missing; expected what the file holds; add it`},
	} {
		if !strings.Contains(gatewayYAML, c.old) {
			t.Fatalf("the product holds no %q", c.old)
		}
		text := strings.Replace(gatewayYAML, c.old, c.new, 1)
		if got := load(t, folder(t, "products/p1.yaml", productYAML, text)); got != c.want {
			t.Errorf("%.60q → %.60q\n got %s\nwant %s", c.old, c.new, got, c.want)
		}
	}
}

// What the driver is told of a board with a shell.
func TestOptionsOfLinux(t *testing.T) {
	p, err := profile.ParseProduct("p1", []byte(gatewayYAML))
	if err != nil {
		t.Fatal(err)
	}
	o := p.Options()
	if p.Limits.Identify != 90*time.Second {
		t.Errorf("a board that boots gets %s", p.Limits.Identify)
	}
	if o.Chip != "Example Gateway 2" || o.Interface != "eth0" || !o.TPM || o.EK != "rsa-2048" || o.Console.User != "root" || o.Console.Password != nil ||
		o.Key != (flasher.DeviceKey{In: "tpm", Handle: 0x81000010}) || len(o.Store.Files) != 1 ||
		o.Store.Files[0] != (flasher.File{Path: "/etc/id", Mode: 0o600, Text: "id={registration_id}\n"}) {
		t.Errorf("got %+v", o)
	}
	const start, end = "  store:\n", "certificate:\n"
	text := gatewayYAML[:strings.Index(gatewayYAML, start)] + "  store:\n    format: aziot\n    config: {path: /c.toml, mode: \"0640\", owner: \"a:b\"}\n" + gatewayYAML[strings.Index(gatewayYAML, end):]
	text = strings.NewReplacer("key: tpm", "key: device", "tpm:\n  ek_certificate: require\n  roots: tpm-roots\n", "", "    handle: \"0x81000010\"", "    owner: k").Replace(text)
	if p, err = profile.ParseProduct("p1", []byte(text)); err != nil {
		t.Fatal(err)
	}
	o = p.Options()
	if o.TPM || o.Key != (flasher.DeviceKey{In: "file", File: flasher.File{Path: "/var/aziot/secrets/device-id.key.pem", Mode: 0o600, Owner: "k"}}) ||
		o.Store.Config != (flasher.File{Path: "/c.toml", Mode: 0o640, Owner: "a:b"}) ||
		o.Store.Certificate != (flasher.File{Path: "/var/aziot/certs/device-id.pem", Mode: 0o644}) ||
		o.Store.PrivateKey != (flasher.File{Path: "/var/aziot/secrets/device-id.key.pem", Mode: 0o600}) {
		t.Errorf("got %+v", o)
	}
}

// The console's password comes from a file that is its owner's alone.
func TestPassword(t *testing.T) {
	for _, c := range []struct {
		text string
		mode os.FileMode
		want string
	}{
		{"open sesame\n", 0o600, ""},
		{"open sesame\n", 0o644, "reading the console's password: others than its owner may use secrets/console (mode 0644)"},
		{"\n", 0o600, "reading the console's password: secrets/console does not hold one line of up to 128 characters"},
		{"two\nlines\n", 0o600, "reading the console's password: secrets/console does not hold one line of up to 128 characters"},
	} {
		dir := folder(t, "products/p1.yaml", productYAML, gatewayYAML)
		write(t, filepath.Join(dir, "secrets/console"), c.text, c.mode)
		set, err := profile.Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		password, err := set.Password(set.Products["p1"])
		if got := fmt.Sprint(err); c.want != "" && got != c.want || c.want == "" && (err != nil || string(password) != "open sesame") {
			t.Errorf("%q, %04o: %v, want %q", c.text, c.mode, err, c.want)
		}
	}
}

// The last unit's ID is judged as well as the first's.
func TestResolveLooksAtTheLastUnit(t *testing.T) {
	if got := load(t, folder(t, "orders/o1.yaml", "A%04d", strings.Repeat("x", 58)+"%d")); got != "" {
		t.Errorf("64 characters are refused: %s", got)
	}
	got := load(t, folder(t, "orders/o1.yaml", "A%04d", strings.Repeat("x", 59)+"%d"))
	want := `products/p1.yaml:5: with order WO-1, unit 10: "dev-` + strings.Repeat("x", 59) + `10" has 65 characters; a certificate's common name takes 64; ` +
		`expected a legal registration ID for every unit; change registration_id here, or the order's serial.format`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// All mistakes of all files are reported at once, in the order of the lines.
func TestAllProblemsAtOnce(t *testing.T) {
	dir := folder(t, "station.yaml", stationYAML, `name: LINE
listen: 10.0.0.1:80
slotz: []
`)
	write(t, filepath.Join(dir, "products/p1.yaml"), strings.Replace(productYAML, "family: espressif", "family: 7", 1), 0o644)
	write(t, filepath.Join(dir, "customers/c1.yaml"), strings.Replace(customerYAML, "0ne0000A001", "x", 1), 0o644)
	want := `customers/c1.yaml:3: id_scope is "x"; expected 0ne and 8 letters or digits; copy it from the service's overview
products/p1.yaml:2: family is "7"; expected text; put it in quotes: "7"
station.yaml:1: slots is missing; expected a list; add the key
station.yaml:1: name "LINE" cannot be a name; expected 1 to 32 lower-case letters, digits and inner hyphens; choose another name
station.yaml:2: listen is "10.0.0.1:80"; expected a loopback address and a port, such as 127.0.0.1:7440; serve others through a proxy that checks who they are
station.yaml:3: unknown key "slotz"; expected one of name, listen, socket, operator, slots; did you mean "slots"?`
	if got := load(t, dir); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestOtherEnding(t *testing.T) {
	dir := folder(t, "", "", "")
	write(t, filepath.Join(dir, "products/p2.yml"), productYAML, 0o644)
	want := `products/p2.yml: the name ends in .yml; expected .yaml; rename the file`
	if got := load(t, dir); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestFolderMissing(t *testing.T) {
	if _, err := profile.Load(filepath.Join(t.TempDir(), "mistyped")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v, want an error that is os.ErrNotExist", err)
	}
}

func parseOrder(file string) (profile.Order, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return profile.Order{}, err
	}
	return profile.ParseOrder(file, raw)
}

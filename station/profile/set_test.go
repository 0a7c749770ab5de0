package profile_test

import (
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"nameplate/flasher"
	"nameplate/records"
	"nameplate/station/profile"
)

// An opened order carries all that its units are judged by: the files' bytes,
// their digests, every default filled in.
func TestResolve(t *testing.T) {
	dir := folder(t, "", "", "")
	set, err := profile.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	order, err := parseOrder(filepath.Join(dir, "orders/o1.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	got, err := set.Resolve(order)
	if err != nil {
		t.Fatal(err)
	}
	if string(got.ProductFile) != productYAML || string(got.CustomerFile) != customerYAML {
		t.Error("the event does not carry the files as they are")
	}
	if sum := sha256.Sum256([]byte(productYAML)); got.ProductSHA256 != hex.EncodeToString(sum[:]) {
		t.Error("the product's digest is not that of its bytes")
	}
	if sum := sha256.Sum256([]byte(customerYAML)); got.CustomerSHA256 != hex.EncodeToString(sum[:]) {
		t.Error("the customer's digest is not that of its bytes")
	}
	if want := (records.Limits{Identify: 30_000, Write: 90_000, Verify: 60_000, Passage: 300_000}); got.Limits != want {
		t.Errorf("limits %+v, want %+v", got.Limits, want)
	}
	want := records.Terms{Family: "espressif", Attestation: "x509", Key: "injected", RegistrationID: "dev-{serial}",
		RegistrationURL: "register.example", IDScope: "0ne0000A001", ValidDays: 365}
	if !reflect.DeepEqual(got.Terms, want) {
		t.Errorf("terms %+v, want %+v", got.Terms, want)
	}
	if want := time.Date(2035, 12, 31, 23, 59, 59, 0, time.UTC); !got.ValidUntil.Equal(want) {
		t.Errorf("valid until %s, want the end of the day, %s", got.ValidUntil, want)
	}
	if got.ID != "WO-1" || got.Quota != 10 || got.SerialFormat != "A%04d" || got.SerialFirst != 1 {
		t.Errorf("got %+v", got)
	}
	if serial := (records.Order{OrderOpened: got}).Serial(10); serial != "A0010" {
		t.Errorf("the last serial is %s", serial)
	}

	// A later passage follows the bytes in the ledger.
	p, err := profile.ParseProduct("product of WO-1", got.ProductFile)
	if err != nil {
		t.Fatal(err)
	}
	o := p.Options()
	if o.Chip != "ESP32-C3" || o.Baud != 921600 || o.Store.Partition != "nvs" || o.Store.Namespace != "identity" {
		t.Errorf("options %+v", o)
	}
	wantKeys := map[string]string{flasher.ItemRegistrationURL: "reg_url", flasher.ItemIDScope: "id_scope", flasher.ItemRegistrationID: "id",
		flasher.ItemSymmetricKey: "sym_key", flasher.ItemCertificate: "cert", flasher.ItemPrivateKey: "priv_key"}
	if !maps.Equal(o.Store.Keys, wantKeys) {
		t.Errorf("keys %v, want %v", o.Store.Keys, wantKeys)
	}
	if _, err := profile.ParseProduct("product of WO-1", []byte("name: x")); err == nil || !strings.HasPrefix(err.Error(), "product of WO-1:1: ") {
		t.Errorf("a broken product gives %v", err)
	}
}

func TestDefaults(t *testing.T) {
	set, err := profile.Load(folder(t, "station.yaml", "listen: 127.0.0.1:7440\n", ""))
	if err != nil {
		t.Fatal(err)
	}
	s := set.Station
	if s.Listen != "127.0.0.1:7440" || s.Socket != "station.sock" || s.Slots[0].Start != profile.StartAuto || s.Slots[1].Start != profile.StartRequest {
		t.Errorf("got %+v", s)
	}
	c := set.Customers["c1"]
	if c.Service.PerMinute != 200 ||
		c.Enrollment.Reprovision != (profile.Reprovision{UpdateHubAssignment: true, MigrateDeviceData: true}) {
		t.Errorf("got %+v", c)
	}
}

const root = `-----BEGIN CERTIFICATE-----
MIIBXzCCAQWgAwIBAgIBATAKBggqhkjOPQQDAjAPMQ0wCwYDVQQDEwRyb290MB4X
-----END CERTIFICATE-----
`

// Check finds what Load does not look at: the files that the settings name.
func TestCheck(t *testing.T) {
	for _, c := range []struct {
		name  string
		write func(dir string)
		want  string
	}{
		{"key missing", func(string) {}, `customers/c1.yaml:7: reading service key: open c1.key: no such file or directory; expected the policy's key in base64, in a file for its owner alone; put the key there and chmod 600 it`},
		{"key readable for all", func(dir string) { write(t, filepath.Join(dir, "c1.key"), "a2V5\n", 0o644) },
			`customers/c1.yaml:7: reading service key: others than its owner may use c1.key (mode 0644); expected the policy's key in base64, in a file for its owner alone; put the key there and chmod 600 it`},
		{"key not base64", func(dir string) { write(t, filepath.Join(dir, "c1.key"), "p4ssw0rd!\n", 0o600) },
			`customers/c1.yaml:7: reading service key: the file holds no base64 text; expected the policy's key in base64, in a file for its owner alone; put the key there and chmod 600 it`},
		{"roots no certificate", func(dir string) {
			write(t, filepath.Join(dir, "c1.key"), "a2V5\n", 0o600)
			write(t, filepath.Join(dir, "ca.pem"), root, 0o644)
		}, `customers/c1.yaml:8: reading service roots: ca.pem holds no certificate in PEM; expected certificates in PEM; put them there, or remove ca_file to trust the system's roots`},
	} {
		old, new := "", ""
		if strings.HasPrefix(c.name, "roots") {
			old, new = "key_file: c1.key", "key_file: c1.key\n  ca_file: ca.pem"
		}
		dir := folder(t, "customers/c1.yaml", old, new)
		c.write(dir)
		set, err := profile.Load(dir)
		if err != nil {
			t.Fatal(err)
		}
		err = set.Check()
		if err == nil {
			t.Errorf("%s: no problem", c.name)
			continue
		}
		if got := strings.ReplaceAll(err.Error(), dir+"/", ""); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

func TestServiceFiles(t *testing.T) {
	dir := folder(t, "", "", "")
	write(t, filepath.Join(dir, "c1.key"), "a2V5\n", 0o600)
	set, err := profile.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if key, err := set.ServiceKey("c1"); err != nil || string(key) != "a2V5" {
		t.Errorf("key %q, %v", key, err)
	}
	if roots, err := set.ServiceRoots("c1"); err != nil || roots != nil {
		t.Errorf("without ca_file: roots %v, %v; want the system's", roots, err)
	}
}

// The example folder is good as it stands, each of its files.
func TestExamples(t *testing.T) {
	const dir = "../../configs/station"
	set, err := profile.Load(dir)
	if err != nil {
		t.Fatal(err)
	}
	if got := slices.Sorted(maps.Keys(set.Products)); !slices.Equal(got, []string{"esp32-c3-symmetric", "esp32-x509", "gateway-tpm", "gateway-x509", "gateway-x509-tpm"}) {
		t.Errorf("products %v", got)
	}
	if got := slices.Sorted(maps.Keys(set.Customers)); !slices.Equal(got, []string{"customer-a", "customer-b"}) {
		t.Errorf("customers %v", got)
	}
	orders, err := filepath.Glob(filepath.Join(dir, "orders", "*"))
	if err != nil || len(orders) != 2 {
		t.Fatalf("orders %v, %v", orders, err)
	}
	var ids []string
	for _, file := range orders {
		o, err := parseOrder(file)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := set.Resolve(o); err != nil {
			t.Error(err)
		}
		ids = append(ids, o.ID)
	}
	for _, slot := range set.Station.Slots {
		if slot.Order != "" && !slices.Contains(ids, slot.Order) {
			t.Errorf("slot %s works on %s, which is no example", slot.Name, slot.Order)
		}
	}
	// Nothing else lies there that no test would load.
	var files int
	if err := filepath.WalkDir("../../configs", func(path string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			files++
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if want := 1 + len(set.Products) + len(set.Customers) + len(orders); files != want {
		t.Errorf("configs holds %d files, %d are loaded here", files, want)
	}
}

// No file makes the decoder panic, and a mistake always has its file and line.
func FuzzDecode(f *testing.F) {
	for _, s := range []string{stationYAML, productYAML, customerYAML, orderYAML, "a: [[[{", "? a\n: b", "- - - a", "a: &x [*x]", "<<: {a: b}", "\x00", "a: !!binary x", "name: \"\\u0000\""} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		if _, err := profile.ParseProduct("fuzz", raw); err != nil && !strings.HasPrefix(err.Error(), "fuzz:") {
			t.Errorf("no file and line: %s", err)
		}
	})
}

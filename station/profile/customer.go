package profile

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
)

// Customer is customers/NAME.yaml: who receives the devices, and the
// provisioning service that shall know them.
type Customer struct {
	// Name is the file's name without .yaml. It also names the customer's issuing
	// CA.
	Name string `yaml:"name"`
	// RegistrationURL is where the devices register: a host name, with :PORT if
	// it is not 443. It is written to every device.
	RegistrationURL string `yaml:"registration_url"`
	// IDScope is the service's own: 0ne and 8 letters or digits. It is written to
	// every device.
	IDScope string `yaml:"id_scope"`
	// Service is the door through which enrollments are made known.
	Service Service `yaml:"service"`
	// Enrollment is what every enrollment says beside the identity.
	Enrollment Enrollment `yaml:"enrollment,optional"`

	src source
}

// Service is the service API of a provisioning service.
type Service struct {
	// Endpoint is the host name of the service API, with :PORT if it is not 443.
	Endpoint string `yaml:"endpoint"`
	// Policy is the name of the shared access policy; it needs the permissions
	// to read and write enrollments.
	Policy string `yaml:"policy"`
	// KeyFile is a file that holds the policy's key, base64 as the service shows
	// it; a path within the station's folder. Only its owner may read it.
	KeyFile string `yaml:"key_file"`
	// CAFile is a PEM file of TLS roots that are trusted for this service, in
	// place of the system's; a path within the station's folder. Optional.
	CAFile string `yaml:"ca_file,optional"`
	// PerMinute is how many operations the service allows in a minute; the
	// station shall be its only caller, or be given its share. Default 200.
	PerMinute int `yaml:"per_minute,optional"`
}

// Enrollment is what every enrollment says beside the identity; names and
// values are those of the service's IndividualEnrollment (API 2021-10-01).
type Enrollment struct {
	// AllocationPolicy is how the service picks the hub: hashed, geoLatency or
	// static. Default: the service's own.
	AllocationPolicy string `yaml:"allocation_policy,optional"`
	// IoTHubHostName is the hub for allocation policy static.
	IoTHubHostName string `yaml:"iothub_hostname,optional"`
	// Reprovision is what happens to a device that registers again.
	Reprovision Reprovision `yaml:"reprovision,optional"`
}

// Reprovision is the service's reprovisionPolicy.
type Reprovision struct {
	// UpdateHubAssignment lets the device move to another hub. Default true.
	UpdateHubAssignment bool `yaml:"update_hub_assignment,optional"`
	// MigrateDeviceData takes the device's twin along. Default true.
	MigrateDeviceData bool `yaml:"migrate_device_data,optional"`
}

var (
	scopeForm  = regexp.MustCompile(`^0ne[0-9A-Za-z]{8}$`)
	policyForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
)

func loadCustomer(file string) (Customer, Problems, error) {
	c := Customer{
		Service:    Service{PerMinute: 200},
		Enrollment: Enrollment{Reprovision: Reprovision{UpdateHubAssignment: true, MigrateDeviceData: true}},
	}
	d, err := decodeFile(file, &c)
	if err != nil {
		return c, nil, err
	}
	c.src = d.source
	d.name("name", c.Name)
	d.fileName(c.Name)
	const host = "a host name, or HOST:PORT, without https:// and path"
	if !hostPort(c.RegistrationURL, false) {
		d.bad("registration_url", fmt.Sprintf("registration_url is %q", c.RegistrationURL), host, "correct the value")
	}
	if !scopeForm.MatchString(c.IDScope) {
		d.bad("id_scope", fmt.Sprintf("id_scope is %q", c.IDScope), "0ne and 8 letters or digits", "copy it from the service's overview")
	}
	s := c.Service
	if !hostPort(s.Endpoint, false) {
		d.bad("service.endpoint", fmt.Sprintf("service.endpoint is %q", s.Endpoint), host, "correct the value")
	}
	if !policyForm.MatchString(s.Policy) {
		d.bad("service.policy", fmt.Sprintf("service.policy is %q", s.Policy), "the name of a shared access policy", "copy it from the service")
	}
	d.inside("service.key_file", s.KeyFile)
	if _, given := d.lines["service.ca_file"]; given {
		d.inside("service.ca_file", s.CAFile)
	}
	d.between("service.per_minute", int64(s.PerMinute), 1, 100_000)
	e := c.Enrollment
	if _, given := d.lines["enrollment.allocation_policy"]; given {
		d.oneOf("enrollment.allocation_policy", e.AllocationPolicy, "hashed", "geoLatency", "static")
	}
	hub := e.IoTHubHostName != ""
	switch {
	case e.AllocationPolicy == "static" && !hub:
		d.bad("enrollment.allocation_policy", "allocation_policy static names no hub", "iothub_hostname beside it", "add it, or choose another policy")
	case e.AllocationPolicy != "static" && hub:
		d.bad("enrollment.iothub_hostname", "iothub_hostname has no effect", "allocation_policy: static beside it", "add that, or remove the hub")
	case hub && !hostPort(e.IoTHubHostName, false):
		d.bad("enrollment.iothub_hostname", fmt.Sprintf("iothub_hostname is %q", e.IoTHubHostName), host, "correct the value")
	}
	return c, d.problems, nil
}

// inside checks a path that must not lead out of the station's folder.
func (d *decoder) inside(path, file string) {
	if !filepath.IsLocal(file) {
		d.bad(path, fmt.Sprintf("%s is %q", path, file), "a path within the station's folder", "put the file there")
	}
}

// Check looks at the files that the settings name: each must be there, a key
// readable for its owner alone, roots in PEM. A station whose service files are
// wrong can still make units; their enrollments wait.
func (s Set) Check() error {
	var problems Problems
	for _, name := range slices.Sorted(maps.Keys(s.Customers)) {
		c := s.Customers[name]
		if _, err := s.ServiceKey(name); err != nil {
			problems = append(problems, c.src.problem("service.key_file", err.Error(),
				"the policy's key in base64, in a file for its owner alone", "put the key there and chmod 600 it"))
		}
		if _, err := s.ServiceRoots(name); err != nil {
			problems = append(problems, c.src.problem("service.ca_file", err.Error(),
				"certificates in PEM", "put them there, or remove ca_file to trust the system's roots"))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Products)) {
		if _, err := s.Password(s.Products[name]); err != nil {
			problems = append(problems, s.Products[name].src.problem("options.console.password_file", err.Error(),
				"the password in one line, in a file for its owner alone", "put it there and chmod 600 it"))
		}
	}
	return problems.orNil()
}

// maxSecretFile bounds a key or root file; real ones are far smaller.
const maxSecretFile = 1 << 20

// ServiceKey reads the policy key of the customer's service, base64 as the
// service shows it. A file that others may read is refused: a key that leaked
// is not made good by using it.
func (s Set) ServiceKey(customer string) ([]byte, error) {
	raw, mode, err := s.read(s.Customers[customer].Service.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("reading service key: %w", err)
	}
	if mode.Perm()&0o077 != 0 {
		return nil, fmt.Errorf("reading service key: others than its owner may use %s (mode %04o)",
			s.Customers[customer].Service.KeyFile, mode.Perm())
	}
	key := bytes.TrimSpace(raw)
	// The decoder's own error would quote what may be a key.
	if n, err := base64.StdEncoding.Decode(make([]byte, len(key)), key); err != nil || n == 0 {
		return nil, errors.New("reading service key: the file holds no base64 text")
	}
	return key, nil
}

// ServiceRoots reads the TLS roots for the customer's service; nil, the
// system's, when the customer names none.
func (s Set) ServiceRoots(customer string) (*x509.CertPool, error) {
	file := s.Customers[customer].Service.CAFile
	if file == "" {
		return nil, nil
	}
	raw, _, err := s.read(file)
	if err != nil {
		return nil, fmt.Errorf("reading service roots: %w", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(raw) {
		return nil, fmt.Errorf("reading service roots: %s holds no certificate in PEM", file)
	}
	return roots, nil
}

func (s Set) read(file string) ([]byte, fs.FileMode, error) {
	f, err := os.Open(filepath.Join(s.Dir, file))
	if err != nil {
		return nil, 0, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, 0, err
	}
	raw, err := io.ReadAll(io.LimitReader(f, maxSecretFile))
	return raw, info.Mode(), err
}

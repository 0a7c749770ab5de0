package linux_test

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nameplate/fixtures/boards"
	"nameplate/fixtures/tpm"
	"nameplate/flasher"
	"nameplate/flasher/link"
	"nameplate/flasher/linux"
)

// needRoot skips what an ordinary user's board cannot have, a user beside root.
func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

func TestProbeRefuses(t *testing.T) {
	const misfit = "profile-does-not-fit"
	fits := func(why string) string {
		return "This identity cannot be stored as the product file says: " + why + "."
	}
	for _, tt := range []struct {
		name string
		cfg  boards.LinuxConfig
		opt  func(*flasher.Options)
		code string
		says string
	}{
		{"wrong password", boards.LinuxConfig{}, func(o *flasher.Options) { o.Console.Password = flasher.Secret("wrong") }, "login-refused",
			"The board did not accept the user name and the password for its console."},
		{"no such user", boards.LinuxConfig{}, func(o *flasher.Options) { o.Console.User = "admin" }, "login-refused",
			"The board did not accept the user name and the password for its console."},
		{"no user named", boards.LinuxConfig{}, func(o *flasher.Options) { o.Console.User = "" }, "login-needed",
			"The board's console asks for a user, and the product file names none."},
		{"not root", boards.LinuxConfig{User: "operator"}, func(o *flasher.Options) { o.Console.User = "operator" }, "not-root",
			`The user of the board's console is not root: its number is "1000".`},
		{"another model", boards.LinuxConfig{Model: "Example Gateway 5"}, nil, "chip-unexpected",
			`This board is a "Example Gateway 5", but the product is a "Example Gateway 4".`},
		{"another interface", boards.LinuxConfig{}, func(o *flasher.Options) { o.Interface = "eth1" }, "interface-missing",
			"The board has no network interface eth1."},
		{"no MAC", boards.LinuxConfig{MAC: "00:00:00:00:00:00"}, nil, "mac-invalid",
			`The address of the board's eth0 reads as "00:00:00:00:00:00", which no board has.`},
		{"everybody's MAC", boards.LinuxConfig{MAC: "ff:ff:ff:ff:ff:ff"}, nil, "mac-invalid",
			`The address of the board's eth0 reads as "ff:ff:ff:ff:ff:ff", which no board has.`},
		{"a group's MAC", boards.LinuxConfig{MAC: "01:00:5e:00:00:01"}, nil, "mac-invalid",
			`The address of the board's eth0 reads as "01:00:5e:00:00:01", which no board has.`},
		{"read-only", boards.LinuxConfig{Faults: boards.LinuxFaults{ReadOnly: true}}, nil, "filesystem-read-only",
			"The board's file system can only be read."},
		{"full", boards.LinuxConfig{Faults: boards.LinuxFaults{Full: "/etc"}}, nil, "filesystem-full",
			"The board's file system is full."},
		{"full for the key", boards.LinuxConfig{OpenSSL: true, Faults: boards.LinuxFaults{Full: "/var"}},
			func(o *flasher.Options) { o.Key = keyOptions().Key }, "filesystem-full", "The board's file system is full."},
		{"no openssl", boards.LinuxConfig{}, func(o *flasher.Options) { o.Key = keyOptions().Key }, "tool-missing",
			"The board's image has no openssl."},
		{"no TPM", boards.LinuxConfig{}, func(o *flasher.Options) { o.TPM = true }, "tpm-missing",
			"The board has no TPM: there is no /dev/tpmrm0."},
		{"no module", boards.LinuxConfig{}, func(o *flasher.Options) {
			o.Key = flasher.DeviceKey{In: "file", File: keyOptions().Key.File, Module: "/usr/lib/libtpm2_pkcs11.so"}
		}, "pkcs11-missing", "The board's image has no PKCS#11 module /usr/lib/libtpm2_pkcs11.so, through which Azure's services reach a key in the TPM."},

		{"other format", boards.LinuxConfig{}, func(o *flasher.Options) { o.Store.Format = "nvs" }, misfit,
			fits(`the format is "nvs", this device family stores aziot and files`)},
		{"unknown placeholder", boards.LinuxConfig{}, func(o *flasher.Options) {
			o.Store = flasher.Store{Format: "files", Files: []flasher.File{{Path: "/etc/id", Text: "{mac}"}}}
		}, misfit, fits("the text of /etc/id has {mac} in it, which is no placeholder")},
		{"other key", boards.LinuxConfig{}, func(o *flasher.Options) { o.Key.In = "smartcard" }, misfit,
			fits(`a key in "smartcard" is not one that this device family makes`)},
		{"key in no TPM", boards.LinuxConfig{}, func(o *flasher.Options) { o.Key.In = "tpm" }, misfit,
			fits("the key belongs into a TPM, and the board has none")},
		{"strange interface", boards.LinuxConfig{}, func(o *flasher.Options) { o.Interface = "../eth0" }, misfit,
			fits(`"../eth0" is not a network interface`)},
		{"interface that is a folder", boards.LinuxConfig{}, func(o *flasher.Options) { o.Interface = ".." }, misfit,
			fits(`".." is not a network interface`)},
		{"user with a line end", boards.LinuxConfig{}, func(o *flasher.Options) { o.Console.User = "root\n" }, misfit,
			fits(`"root\n" is not a user`)},
		{"path with a way up", boards.LinuxConfig{}, func(o *flasher.Options) { o.Store.Config.Path = "/etc/../root/x" }, misfit,
			fits(`"/etc/../root/x" is not an absolute path of a file`)},
		{"path with a line end", boards.LinuxConfig{}, func(o *flasher.Options) { o.Store.Config.Path = "/etc/a\nreboot" }, misfit,
			fits(`"/etc/a\nreboot" is not an absolute path of a file`)},
		{"relative module", boards.LinuxConfig{}, func(o *flasher.Options) { o.Key.Module = "m.so" }, misfit,
			fits(`the module "m.so" is not an absolute path`)},
		{"one path twice", boards.LinuxConfig{}, func(o *flasher.Options) { o.Store.Certificate.Path = o.Store.Config.Path }, misfit,
			fits("the file /etc/aziot/config.toml is named twice")},
		{"mode of more than permissions", boards.LinuxConfig{}, func(o *flasher.Options) { o.Store.Config.Mode = 0o4755 }, misfit,
			fits("the mode of /etc/aziot/config.toml is 04755")},
		{"owner with a command", boards.LinuxConfig{}, func(o *flasher.Options) { o.Store.Config.Owner = "root;reboot" }, misfit,
			fits(`the owner of /etc/aziot/config.toml is "root;reboot"`)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.cfg.User != "" {
				needRoot(t)
			}
			ctx, f := within(t), newFixture(t)
			b := f.insert(t, tt.cfg)
			o := aziotOptions()
			if tt.opt != nil {
				tt.opt(&o)
			}
			_, err := linux.New().Probe(ctx, f.port, o)
			if r := refusal(t, err, tt.code); r.Sentence != tt.says {
				t.Errorf("it says %q, want %q", r.Sentence, tt.says)
			}
			given := 0
			for _, line := range b.Inputs() {
				if line == "wrong" || line == password {
					given++
				}
			}
			if given > 1 {
				t.Errorf("the password was given %d times", given)
			}
			left, _ := filepath.Glob(filepath.Join(b.Root(), "*", ".*nameplate*"))
			if len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

func TestAbsentPortIsGone(t *testing.T) {
	if _, err := linux.New().Probe(within(t), newFixture(t).port, aziotOptions()); !errors.Is(err, link.ErrGone) {
		t.Errorf("got %v", err)
	}
}

// An address that the kernel drew at random is gone with the next start.
func TestDrawnAddressIsNoHardwareID(t *testing.T) {
	t.Parallel()
	ctx, f := within(t), newFixture(t)
	root := filepath.Join(t.TempDir(), "root")
	net := filepath.Join(root, "sys/class/net/eth0")
	if err := os.MkdirAll(net, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(net, "addr_assign_type"), []byte("1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	f.insert(t, boards.LinuxConfig{Root: root})
	_, err := linux.New().Probe(ctx, f.port, aziotOptions())
	if r := refusal(t, err, "mac-invalid"); !strings.Contains(r.Sentence, "drawn at random") {
		t.Errorf("it says %q", r.Sentence)
	}
}

func TestSerialNumberOfNobodyIsNoHardwareID(t *testing.T) {
	t.Parallel()
	ctx, f := within(t), newFixture(t)
	f.insert(t, boards.LinuxConfig{Serial: "To be filled by O.E.M."})
	d := mustProbe(t, ctx, f, aziotOptions())
	if ids := d.Facts().HardwareIDs; len(ids) != 1 || ids[0].Kind != "mac" {
		t.Errorf("hardware IDs are %v", ids)
	}
}

func TestConsolesAreGotOver(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  boards.LinuxConfig
	}{
		{"one byte at a time", boards.LinuxConfig{Faults: boards.LinuxFaults{Dribble: true}}},
		{"slow login", boards.LinuxConfig{Faults: boards.LinuxFaults{SlowLogin: 2 * time.Second}}},
		{"kernel messages", boards.LinuxConfig{Faults: boards.LinuxFaults{KernelMessages: 0.3}}},
		{"kernel messages everywhere", boards.LinuxConfig{Userland: boards.GNU, Faults: boards.LinuxFaults{KernelMessages: 1}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			if tt.cfg.Userland == boards.GNU {
				needTool(t, "bash", "xargs")
			}
			ctx, f := within(t), newFixture(t)
			b := f.insert(t, tt.cfg)
			d := mustProbe(t, ctx, f, aziotOptions())
			plan := mustPlan(t, d, symmetric())
			mustWrite(t, ctx, d, plan)
			if missing := plan.Manifest.Missing(mustReadBack(t, ctx, d, plan.Manifest)); len(missing) != 0 {
				t.Errorf("%v missing", missing)
			}
			if !holds(t, b, plan) {
				t.Error("the files are not as planned")
			}
		})
	}
}

func TestConsoleWithoutAPassword(t *testing.T) {
	t.Parallel()
	ctx, f := within(t), newFixture(t)
	needTool(t, "busybox")
	b, err := boards.NewLinux(boards.LinuxConfig{Name: "open", Model: model, MAC: mac, Root: filepath.Join(t.TempDir(), "root")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.socket.Remove() })
	if err := f.socket.Insert(b); err != nil {
		t.Fatal(err)
	}
	o := aziotOptions()
	o.Console.Password = nil
	mustProbe(t, ctx, f, o)
}

// Nothing of a conversation stays on the board but what it was for.
func TestNothingIsLeftBehind(t *testing.T) {
	t.Parallel()
	eachUserland(t, func(t *testing.T, u boards.Userland) {
		ctx, f := within(t), newFixture(t)
		b := f.insert(t, boards.LinuxConfig{Userland: u, OpenSSL: true})
		history := filepath.Join(b.Root(), "root/.ash_history")
		if u == boards.GNU {
			history = filepath.Join(b.Root(), "root/.bash_history")
		}
		if err := os.WriteFile(history, []byte("ls\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		before := listing(t, b.Root())
		d := mustProbe(t, ctx, f, keyOptions())
		if after := listing(t, b.Root()); after != before {
			t.Errorf("probing left something behind:\n%s\nbefore:\n%s", after, before)
		}
		request, err := d.Can().Keys.Request(ctx, "gw-00017")
		if err != nil {
			t.Fatal(err)
		}
		mustWrite(t, ctx, d, mustPlan(t, d, certified(t, request.CSR)))
		if err := d.Close(ctx); err != nil {
			t.Fatal(err)
		}
		mustProbe(t, ctx, f, keyOptions()) // the first login's shell has ended
		for _, line := range strings.Split(listing(t, b.Root()), "\n") {
			if !strings.Contains(before, line) && !strings.Contains(line, "/var/aziot") && !strings.Contains(line, "/etc/aziot") {
				t.Errorf("left behind: %s", line)
			}
		}
		if text, err := os.ReadFile(history); err != nil || string(text) != "ls\n" {
			t.Errorf("the history is %q, %v", text, err)
		}
	})
}

// listing is the files of a board and their sizes; what its own services write is
// left out.
func listing(t testing.TB, root string) string {
	t.Helper()
	out, err := exec.Command("find", root, "-path", "*/proc/*", "-prune", "-o", "-path", "*/var/log/*", "-prune", "-o", "-type", "f", "-printf", "%p %s %m\n").Output()
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// A station that died left a shell behind that is quiet, or in the middle of
// something.
func TestDeadStationsShellIsGotOver(t *testing.T) {
	for _, tt := range []struct{ name, last string }{
		{"quiet", ""},
		{"in the middle of a line", "d QUJD"},
		{"in the middle of a command", "o=$(cat <<'X'\n"},
		{"waiting for the TPM", "o=$(dd bs=4096 count=1 <&3)\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ctx, f := within(t), newFixture(t)
			cfg, o := boards.LinuxConfig{}, aziotOptions()
			if strings.Contains(tt.name, "TPM") {
				cfg.TPMState, o.TPM = newTPM(t, tpm.Config{}), true
			}
			b := f.insert(t, cfg)
			dead := &letGo{Port: f.port}
			if _, err := linux.New().Probe(ctx, dead, o); err != nil {
				t.Fatal(err)
			}
			if err := dead.link.Write(ctx, []byte(tt.last)); err != nil {
				t.Fatal(err)
			}
			if err := dead.link.Close(); err != nil {
				t.Fatal(err)
			}
			d := mustProbe(t, ctx, f, o)
			plan := mustPlan(t, d, symmetric())
			mustWrite(t, ctx, d, plan)
			if !holds(t, b, plan) {
				t.Error("the files are not as planned")
			}
		})
	}
}

func TestPulledCableIsSeenAndMended(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"b '/etc", "d W3By", " 600 '"} { // before the file, in its middle, before its end
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			ctx, f := within(t), newFixture(t)
			b := f.insert(t, boards.LinuxConfig{Faults: boards.LinuxFaults{PullAtText: text}})
			d := mustProbe(t, ctx, f, aziotOptions())
			plan := mustPlan(t, d, symmetric())
			if err := d.Write(ctx, plan, nil); !errors.Is(err, link.ErrGone) {
				t.Fatalf("got %v", err)
			}
			_ = d.Close(ctx)
			if err := f.socket.AwaitEmpty(ctx); err != nil {
				t.Fatal(err)
			}
			if err := f.socket.Insert(b); err != nil {
				t.Fatal(err)
			}
			again := mustProbe(t, ctx, f, aziotOptions())
			if found := mustReadBack(t, ctx, again, plan.Manifest); len(found) != 0 {
				t.Errorf("a cut write left %v", found)
			}
			mustWrite(t, ctx, again, plan)
			if missing := plan.Manifest.Missing(mustReadBack(t, ctx, again, plan.Manifest)); len(missing) != 0 {
				t.Errorf("%v missing after writing again", missing)
			}
			if !holds(t, b, plan) {
				t.Error("the files are not as planned")
			}
		})
	}
}

func TestRestartedBoardIsNoticed(t *testing.T) {
	t.Parallel()
	ctx, f := within(t), newFixture(t)
	b := f.insert(t, boards.LinuxConfig{})
	d := mustProbe(t, ctx, f, aziotOptions())
	plan := mustPlan(t, d, symmetric())
	mustWrite(t, ctx, d, plan)
	if err := b.Reboot(); err != nil {
		t.Fatal(err)
	}
	_, err := d.ReadBack(ctx, plan.Manifest)
	refusal(t, err, "board-restarted")
	if !errors.Is(err, flasher.ErrSwapped) {
		t.Errorf("%v is not ErrSwapped", err)
	}
}

func TestConsoleThatDiesIsSilent(t *testing.T) {
	t.Parallel()
	ctx, f := within(t), newFixture(t)
	f.insert(t, boards.LinuxConfig{Faults: boards.LinuxFaults{HangAfter: 4000}}) // a probe takes 2,000
	d := mustProbe(t, ctx, f, aziotOptions())
	plan := mustPlan(t, d, symmetric())
	for range 50 {
		if _, err := d.ReadBack(ctx, plan.Manifest); err != nil {
			refusal(t, err, "board-silent")
			return
		}
	}
	t.Error("it did not die")
}

func TestWriteRefuses(t *testing.T) {
	for _, tt := range []struct {
		name    string
		change  func(*flasher.Options)
		prepare func(t *testing.T, root string)
		code    string
		says    string
	}{
		{"owner that is not there", func(o *flasher.Options) { o.Store.Config.Owner = "aziotcs:aziotcs" }, nil, "owner-unknown",
			"The board does not know the user or the group that shall own a file."},
		{"folder in its place", nil, func(t *testing.T, root string) {
			if err := os.MkdirAll(filepath.Join(root, "etc/aziot/config.toml"), 0o755); err != nil {
				t.Fatal(err)
			}
		}, "path-is-folder", "Where the product file wants a file, the board has a folder."},
		{"file where a folder should be", nil, func(t *testing.T, root string) {
			if err := os.WriteFile(filepath.Join(root, "etc/aziot"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}, "filesystem-refuses", "The board could not write a file."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ctx, f := within(t), newFixture(t)
			b := f.insert(t, boards.LinuxConfig{})
			o := aziotOptions()
			if tt.change != nil {
				tt.change(&o)
			}
			if tt.prepare != nil {
				tt.prepare(t, b.Root())
			}
			d := mustProbe(t, ctx, f, o)
			err := d.Write(ctx, mustPlan(t, d, symmetric()), nil)
			if r := refusal(t, err, tt.code); r.Sentence != tt.says {
				t.Errorf("it says %q, want %q", r.Sentence, tt.says)
			}
			if left := leftovers(t, filepath.Join(b.Root(), "etc/aziot")); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
		})
	}
}

// A file system that fills up while a file is written: the old file stays.
func TestFileSystemFullInTheMiddle(t *testing.T) {
	t.Parallel()
	ctx, f := within(t), newFixture(t)
	needRoot(t)
	b := f.insert(t, boards.LinuxConfig{Faults: boards.LinuxFaults{Full: "/data"}})
	o := aziotOptions()
	o.Store = flasher.Store{Format: "files", Files: []flasher.File{{Path: "/etc/id", Text: "{symmetric_key}"}}}
	d := mustProbe(t, ctx, f, o)
	plan := mustPlan(t, d, symmetric())
	plan.Segments[0].Target = "/data/id"
	refusal(t, d.Write(ctx, plan, nil), "filesystem-full")
	if left := leftovers(t, filepath.Join(b.Root(), "data")); len(left) > 0 {
		t.Errorf("left behind: %q", left)
	}
}

func TestKeyThatCannotBeUsedStays(t *testing.T) {
	needTool(t, "openssl")
	for _, tt := range []struct {
		name string
		make []string
		says string
	}{
		{"weak", []string{"genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"}, "it is not on the curve P-256"},
		{"other curve", []string{"genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"}, "it is not on the curve P-256"},
		{"with a password", []string{"genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-aes128", "-pass", "pass:x"},
			"openssl cannot read it, or it asks for a password"},
		{"no key", []string{"rand", "-base64", "100"}, "openssl cannot read it, or it asks for a password"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			key, err := exec.Command("openssl", tt.make...).Output()
			if err != nil {
				t.Fatal(err)
			}
			ctx, f := within(t), newFixture(t)
			b := f.insert(t, boards.LinuxConfig{OpenSSL: true})
			o := keyOptions()
			name := filepath.Join(b.Root(), o.Key.File.Path)
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, key, 0o600); err != nil {
				t.Fatal(err)
			}
			d := mustProbe(t, ctx, f, o)
			_, err = d.Can().Keys.Request(ctx, "gw-00017")
			r := refusal(t, err, "device-key-unusable")
			if want := fmt.Sprintf("The key that the board has in %s cannot be used: %s.", o.Key.File.Path, tt.says); r.Sentence != want {
				t.Errorf("it says %q, want %q", r.Sentence, want)
			}
			if after, err := os.ReadFile(name); err != nil || !bytes.Equal(after, key) {
				t.Error("the key was changed", err)
			}
			found := mustReadBack(t, ctx, d, flasher.Manifest{{Name: flasher.ItemPrivateKey, How: flasher.ByPossession}})
			if len(found) != 0 {
				t.Errorf("found %v", found)
			}
		})
	}
}

// Whichever answer of the TPM noise hits on its way over the console, it is asked
// for again, and the TPM does nothing twice.
func TestNoiseInTheTPMsAnswersIsGotOver(t *testing.T) {
	t.Parallel()
	state := newTPM(t, tpm.Config{})
	commands := 0
	for n := 0; n <= commands; n++ {
		ctx, f := within(t), newFixture(t)
		count := &counter{}
		f.insert(t, boards.LinuxConfig{TPMState: state, TPMWrap: count.wrap, Faults: boards.LinuxFaults{NoiseInTPM: n}})
		o := aziotOptions()
		o.TPM = true
		d := mustProbe(t, ctx, f, o)
		plan := mustPlan(t, d, identity(flasher.TPM))
		if found := mustReadBack(t, ctx, d, plan.Manifest[1:]); len(found) != 1 {
			t.Errorf("noise in answer %d: found %v", n, found)
		}
		if n == 0 {
			commands = int(count.n.Load())
		} else if got := int(count.n.Load()); got != commands {
			t.Errorf("noise in answer %d: the TPM got %d commands, not %d", n, got, commands)
		}
		d.Close(ctx)
		f.socket.Remove()
	}
	if commands < 6 {
		t.Errorf("%d commands: that tests little", commands)
	}
}

func TestLockedTPMIsRefused(t *testing.T) {
	t.Parallel()
	ctx, f := within(t), newFixture(t)
	f.insert(t, boards.LinuxConfig{TPMState: newTPM(t, tpm.Config{}), Faults: boards.LinuxFaults{TPMLockout: true}})
	o := aziotOptions()
	o.TPM = true
	_, err := linux.New().Probe(ctx, f.port, o)
	refusal(t, err, "tpm-locked-out")
}

func TestPlanRefuses(t *testing.T) {
	t.Parallel()
	ctx, f := within(t), newFixture(t)
	f.insert(t, boards.LinuxConfig{})
	d := mustProbe(t, ctx, f, aziotOptions())
	x := identity(flasher.X509)
	x.Certificate = []byte("none")
	unsalted, large := symmetric(), identity(flasher.X509)
	unsalted.Salt = nil
	large.PrivateKey, large.Certificate = flasher.Secret("key"), make([]byte, 70000)
	for _, tt := range []struct {
		name string
		id   flasher.Identity
		says string
	}{
		{"TPM that is not there", identity(flasher.TPM), "the identity rests on a TPM, and the product says that the board has none"},
		{"no key", x, "the identity has no private key, and the device makes none"},
		{"no salt", unsalted, "the identity has no salt for its secrets"},
		{"large file", large, "/var/aziot/certs/device-id.pem would have 70000 bytes, 65536 is the limit"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := d.Plan(tt.id)
			r := refusal(t, err, "profile-does-not-fit")
			if want := "This identity cannot be stored as the product file says: " + tt.says + "."; r.Sentence != want {
				t.Errorf("it says %q, want %q", r.Sentence, want)
			}
		})
	}
}

// Neither the password nor a key stays in the buffers of the conversation, whether
// it comes to its end or the cable goes in the middle of a write.
func TestNoSecretStays(t *testing.T) {
	for name, pull := range map[string]string{"whole": "", "cut": "d W3By"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, f := within(t), newFixture(t)
			f.insert(t, boards.LinuxConfig{Faults: boards.LinuxFaults{PullAtText: pull}})
			k := &keeper{Port: f.port}
			d, err := linux.New().Probe(ctx, k, aziotOptions())
			if err != nil {
				t.Fatal(err)
			}
			plan := mustPlan(t, d, symmetric())
			if err := d.Write(ctx, plan, nil); (err == nil) != (pull == "") {
				t.Fatal(err)
			}
			if pull == "" {
				mustReadBack(t, ctx, d, plan.Manifest)
			}
			_ = d.Close(ctx)
			text := base64.StdEncoding.EncodeToString(plan.Segments[0].Data)
			for _, b := range k.buffers {
				if bytes.Contains(b, []byte(password)) || bytes.Contains(b, []byte(text[:30])) {
					t.Errorf("a buffer of %d bytes holds a secret", len(b))
				}
			}
		})
	}
}

// A TPM that does not prove that it holds the keys it shows has shown nothing.
func TestLyingTPMShowsNothing(t *testing.T) {
	t.Parallel()
	ctx, f := within(t), newFixture(t)
	f.insert(t, boards.LinuxConfig{TPMState: newTPM(t, tpm.Config{}), TPMWrap: func(s tpm.Sender) tpm.Sender {
		return tpm.Liar(tpm.WrongActivation, s, nil)
	}})
	o := aziotOptions()
	o.TPM = true
	d := mustProbe(t, ctx, f, o)
	plan := mustPlan(t, d, identity(flasher.TPM))
	mustWrite(t, ctx, d, plan)
	missing := plan.Manifest.Missing(mustReadBack(t, ctx, d, plan.Manifest))
	if len(missing) != 1 || missing[0] != flasher.ItemEndorsementKey {
		t.Errorf("%v missing", missing)
	}
}

// Wherever the power goes while a key is made, the next attempt ends with one key,
// whole, and its request.
func TestKeyIsMadeWheneverThePowerGoes(t *testing.T) {
	for _, tt := range []struct {
		text string
		held bool // the key is there afterwards
	}{{"genpkey", false}, {"pkeyutl", true}} {
		t.Run(tt.text, func(t *testing.T) {
			t.Parallel()
			ctx, f := within(t), newFixture(t)
			b := f.insert(t, boards.LinuxConfig{OpenSSL: true, Faults: boards.LinuxFaults{PullAtText: tt.text}})
			o := keyOptions()
			name := filepath.Join(b.Root(), o.Key.File.Path)
			d := mustProbe(t, ctx, f, o)
			if _, err := d.Can().Keys.Request(ctx, "gw-00017"); !errors.Is(err, link.ErrGone) {
				t.Fatalf("got %v", err)
			}
			_ = d.Close(ctx)
			before, err := os.ReadFile(name)
			if (err == nil) != tt.held {
				t.Fatal(err)
			}
			if err := f.socket.AwaitEmpty(ctx); err != nil {
				t.Fatal(err)
			}
			if err := f.socket.Insert(b); err != nil {
				t.Fatal(err)
			}
			again := mustProbe(t, ctx, f, o)
			if again.Facts().KeyHeld != tt.held {
				t.Errorf("key held: %v", again.Facts().KeyHeld)
			}
			request, err := again.Can().Keys.Request(ctx, "gw-00017")
			if err != nil {
				t.Fatal(err)
			}
			after, err := os.ReadFile(name)
			if err != nil || tt.held && !bytes.Equal(before, after) || len(leftovers(t, filepath.Dir(name))) > 0 {
				t.Error("the key is not the one that was made first, or something is left beside it", err)
			}
			plan := mustPlan(t, again, certified(t, request.CSR))
			mustWrite(t, ctx, again, plan)
			checkPossession(t, plan, mustReadBack(t, ctx, again, plan.Manifest), request.CSR)
		})
	}
}

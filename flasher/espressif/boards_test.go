package espressif_test

import (
	"bytes"
	"context"
	"encoding/pem"
	"errors"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"nameplate/fixtures/boards"
	"nameplate/flasher"
	"nameplate/flasher/espressif"
	"nameplate/flasher/link"
)

// These tests run against simulated boards, over TCP with RFC 2217, as the
// station does. The boards share no code with the driver.

const patience = 60 * time.Second

func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	return ctx
}

// fixture is a socket, the port that leads to it, and boards to put in.
type fixture struct {
	socket *boards.Socket
	port   link.Port
}

func newFixture(t testing.TB) fixture {
	t.Helper()
	s, err := boards.Listen("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	port, err := link.Parse("rfc2217://" + s.Addr())
	if err != nil {
		t.Fatal(err)
	}
	return fixture{s, port}
}

func (f fixture) insert(t testing.TB, cfg boards.Config) *boards.Board {
	t.Helper()
	if cfg.Name == "" {
		cfg.Name = "board"
	}
	if cfg.MAC == "" {
		cfg.MAC = "34:85:18:00:00:01"
	}
	if cfg.FlashPath == "" {
		cfg.FlashPath = filepath.Join(t.TempDir(), "flash.bin")
	}
	b, err := boards.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.socket.Remove(); b.Close() })
	if err := f.socket.Insert(b); err != nil {
		t.Fatal(err)
	}
	return b
}

func options(chip string) flasher.Options {
	return flasher.Options{
		Chip: chip, Baud: 460800,
		Store: flasher.Store{Format: "nvs", Partition: "nvs", Namespace: "ident", Keys: map[string]string{
			flasher.ItemRegistrationURL: "dps_host",
			flasher.ItemIDScope:         "id_scope",
			flasher.ItemRegistrationID:  "reg_id",
			flasher.ItemSymmetricKey:    "sym_key",
			flasher.ItemCertificate:     "cert",
			flasher.ItemPrivateKey:      "key",
		}},
	}
}

var salt = []byte("0123456789abcdef")

func symmetric() flasher.Identity {
	return flasher.Identity{
		RegistrationURL: "global.azure-devices-provisioning.net", IDScope: "0ne00112233", RegistrationID: "device-1",
		Attestation: flasher.SymmetricKey, SymmetricKey: bytes.Repeat([]byte{0xA5, 0xC0, 0xDB, 0x01}, 16), Salt: salt,
	}
}

// x509 is an identity whose chain is long enough to need a blob of two pieces.
func x509() flasher.Identity {
	id := symmetric()
	id.Attestation, id.SymmetricKey = flasher.X509, nil
	id.Certificate = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: noise(4000)})
	id.PrivateKey = pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: noise(138)})
	return id
}

// noise is bytes that deflate as badly as keys and signatures do.
func noise(n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func mustProbe(t testing.TB, ctx context.Context, f fixture, o flasher.Options) flasher.Device {
	t.Helper()
	d, err := espressif.New().Probe(ctx, f.port, o)
	if err != nil {
		t.Fatalf("probing: %v (%v)", err, errors.Unwrap(err))
	}
	t.Cleanup(func() { d.Close(ctx) })
	return d
}

func mustPlan(t testing.TB, d flasher.Device, id flasher.Identity) flasher.Plan {
	t.Helper()
	p, err := d.Plan(id)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func mustReadBack(t testing.TB, ctx context.Context, d flasher.Device, want flasher.Manifest) flasher.Manifest {
	t.Helper()
	got, err := d.ReadBack(ctx, want)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestIdentityGoesOntoABoardAndIsFoundThere(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		chip string
		id   flasher.Identity
		ids  []string
	}{
		{"ESP32", symmetric(), []string{"mac 34:85:18:00:00:01"}},
		{"ESP32-C3", x509(), []string{"mac 34:85:18:00:00:01", "chip-uid 000102030405060708090a0b0c0d0e0f"}},
		{"ESP32-S3", x509(), []string{"mac 34:85:18:00:00:01", "chip-uid 000102030405060708090a0b0c0d0e0f"}},
	} {
		t.Run(tt.chip, func(t *testing.T) {
			ctx, f := within(t), newFixture(t)
			cfg := boards.Config{Chip: tt.chip}
			if len(tt.ids) > 1 {
				cfg.UID = [16]byte{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
			}
			b := f.insert(t, cfg)
			d := mustProbe(t, ctx, f, options(tt.chip))

			facts := d.Facts()
			var ids []string
			for _, id := range facts.HardwareIDs {
				ids = append(ids, id.Kind+" "+id.Value)
			}
			if facts.Family != "espressif" || facts.Chip != tt.chip || !reflect.DeepEqual(ids, tt.ids) {
				t.Errorf("found %s %s %q, want %q", facts.Family, facts.Chip, ids, tt.ids)
			}
			if !facts.StoreBlank || facts.FlashSize != 4<<20 || facts.Security.Raw == "" ||
				facts.Security.SecureBoot || facts.Security.FlashEncryption {
				t.Errorf("facts are %+v", facts)
			}

			plan := mustPlan(t, d, tt.id)
			if found := mustReadBack(t, ctx, d, plan.Manifest); len(found) != 0 {
				t.Errorf("a blank board holds %v", found)
			}
			var steps []string
			err := d.Write(ctx, plan, func(p flasher.Progress) {
				if p.Total <= 0 || p.Done > p.Total {
					t.Errorf("progress %+v", p)
				}
				if len(steps) == 0 || steps[len(steps)-1] != p.Step {
					steps = append(steps, p.Step)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := strings.Join(steps, ", "); got != "erase, write, check" {
				t.Errorf("steps were %s", got)
			}
			if found := mustReadBack(t, ctx, d, plan.Manifest); !reflect.DeepEqual(found, plan.Manifest) {
				t.Errorf("found %v, want %v", found, plan.Manifest)
			}
			if err := d.Close(ctx); err != nil {
				t.Fatal(err)
			}
			if err := b.Await(ctx, boards.Application); err != nil {
				t.Error(err)
			}
			if d := mustProbe(t, ctx, f, options(tt.chip)); d.Facts().StoreBlank {
				t.Error("a written board counts as blank")
			}
		})
	}
}

// The image lies where the partition table says, byte for byte, and nothing
// around it has changed.
func TestOnlyThePartitionIsWritten(t *testing.T) {
	t.Parallel()
	ctx, f := within(t), newFixture(t)
	b := f.insert(t, boards.Config{Chip: "ESP32-C3"})
	before, err := os.ReadFile(b.FlashPath())
	if err != nil {
		t.Fatal(err)
	}
	d := mustProbe(t, ctx, f, options("ESP32-C3"))
	plan := mustPlan(t, d, x509())
	if err := d.Write(ctx, plan, nil); err != nil {
		t.Fatal(err)
	}
	after, err := os.ReadFile(b.FlashPath())
	if err != nil {
		t.Fatal(err)
	}
	copy(before[plan.Segments[0].Offset:], plan.Segments[0].Data)
	if !bytes.Equal(before, after) {
		t.Error("the flash differs outside of the partition or from the plan")
	}
}

func refusal(t testing.TB, err error, code string) *flasher.Refusal {
	t.Helper()
	var r *flasher.Refusal
	if !errors.As(err, &r) || r.Code != code {
		t.Fatalf("got %v (%v), want a refusal %s", err, errors.Unwrap(err), code)
	}
	if r.Sentence == "" || r.Next == "" {
		t.Errorf("%s says %q, %q", code, r.Sentence, r.Next)
	}
	return r
}

func TestProbeRefuses(t *testing.T) {
	nvs := func(p boards.Partition) []boards.Partition {
		p.Name, p.Type, p.Offset = "nvs", 1, 0x9000
		return []boards.Partition{p}
	}
	for _, tt := range []struct {
		name string
		cfg  boards.Config
		opt  func(*flasher.Options)
		code string
		says string
	}{
		{"another chip", boards.Config{Chip: "ESP32-S3"}, nil, "chip-unexpected",
			"This board carries an ESP32-S3, but the product is built on the ESP32-C3."},
		{"silent board", boards.Config{Chip: "ESP32-C3", Faults: boards.Faults{Silent: true}}, nil, "board-silent",
			"The board does not answer."},
		{"secure download mode", boards.Config{Chip: "ESP32-C3", SecureDownload: true}, nil, "board-locked",
			"This board's ESP32-C3 is locked: secure download mode is on."},
		{"no MAC", boards.Config{Chip: "ESP32-C3", MAC: "00:00:00:00:00:00"}, nil, "mac-invalid",
			"The chip's own address reads as 00:00:00:00:00:00, which no chip has."},
		{"blown MAC", boards.Config{Chip: "ESP32-C3", MAC: "ff:ff:ff:ff:ff:ff"}, nil, "mac-invalid",
			"The chip's own address reads as ff:ff:ff:ff:ff:ff, which no chip has."},
		{"no such partition", boards.Config{Chip: "ESP32-C3"}, func(o *flasher.Options) { o.Store.Partition = "ident" }, "partition-missing",
			`The board's partition table has no NVS partition "ident".`},
		{"partition of another kind", boards.Config{Chip: "ESP32-C3", Partitions: nvs(boards.Partition{Subtype: 6, Size: 0x6000})}, nil,
			"partition-missing", `The board's partition table has no NVS partition "nvs".`},
		{"small partition", boards.Config{Chip: "ESP32-C3", Partitions: nvs(boards.Partition{Subtype: 2, Size: 0x2000})}, nil,
			"partition-too-small", `The partition "nvs" has 8192 bytes, which is too small for NVS.`},
		{"huge partition", boards.Config{Chip: "ESP32-C3", Partitions: nvs(boards.Partition{Subtype: 2, Size: 0x200000})}, nil,
			"partition-too-large", `The partition "nvs" has 2097152 bytes; the station writes NVS partitions up to 1048576.`},
		{"encrypted partition", boards.Config{Chip: "ESP32-C3", Partitions: nvs(boards.Partition{Subtype: 2, Size: 0x6000, Encrypted: true})}, nil,
			"partition-encrypted", `The partition "nvs" is marked as encrypted, and the station writes it in plain.`},
		{"other format", boards.Config{Chip: "ESP32-C3"}, func(o *flasher.Options) { o.Store.Format = "tar" }, "profile-does-not-fit",
			`This identity cannot be stored as the product file says: the format is "tar", this device family stores nvs.`},
		{"long key", boards.Config{Chip: "ESP32-C3"}, func(o *flasher.Options) { o.Store.Keys[flasher.ItemIDScope] = "provisioning_scope" }, "profile-does-not-fit",
			`This identity cannot be stored as the product file says: key "provisioning_scope" of id_scope: the name has 18 characters, 15 is the limit.`},
		{"long namespace", boards.Config{Chip: "ESP32-C3"}, func(o *flasher.Options) { o.Store.Namespace = "device_provisioning" }, "profile-does-not-fit",
			`This identity cannot be stored as the product file says: namespace "device_provisioning": the name has 19 characters, 15 is the limit.`},
		{"one key twice", boards.Config{Chip: "ESP32-C3"}, func(o *flasher.Options) { o.Store.Keys[flasher.ItemIDScope] = "reg_id" }, "profile-does-not-fit",
			`This identity cannot be stored as the product file says: id_scope and registration_id have the same key "reg_id".`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ctx, f := within(t), newFixture(t)
			f.insert(t, tt.cfg)
			o := options("ESP32-C3")
			if tt.opt != nil {
				tt.opt(&o)
			}
			_, err := espressif.New().Probe(ctx, f.port, o)
			if r := refusal(t, err, tt.code); r.Sentence != tt.says {
				t.Errorf("it says %q, want %q", r.Sentence, tt.says)
			}
		})
	}
}

func TestAbsentPortIsGone(t *testing.T) {
	if _, err := espressif.New().Probe(within(t), newFixture(t).port, options("ESP32")); !errors.Is(err, link.ErrGone) {
		t.Errorf("got %v", err)
	}
}

func TestFlashThatDoesNotHoldIsRefused(t *testing.T) {
	t.Parallel()
	ctx, f := within(t), newFixture(t)
	f.insert(t, boards.Config{Chip: "ESP32-C3", Faults: boards.Faults{StuckCells: []uint32{0x9000 + 100}}})
	d := mustProbe(t, ctx, f, options("ESP32-C3"))
	plan := mustPlan(t, d, x509())
	refusal(t, d.Write(ctx, plan, nil), "flash-verify-failed")
	if missing := plan.Manifest.Missing(mustReadBack(t, ctx, d, plan.Manifest)); len(missing) == 0 {
		t.Error("a bad flash reads as if everything had arrived")
	}
}

// holds tells whether the board's flash is what the segment says, every byte.
func holds(t testing.TB, b *boards.Board, s flasher.Segment) bool {
	t.Helper()
	flash, err := os.ReadFile(b.FlashPath())
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Equal(flash[s.Offset:][:len(s.Data)], s.Data)
}

// However a write is cut, the board looks as if it held the identity only when
// it does, to the last bit, and the next passage finishes it.
func TestPulledCableIsSeenAndMended(t *testing.T) {
	t.Parallel()
	seen := 0
	for block := 0; ; block++ { // 0: after the erase, before the first
		faults := boards.Faults{PullAtBlock: block, PowerLostAfterErase: block == 0}
		ctx, f := within(t), newFixture(t)
		b := f.insert(t, boards.Config{Chip: "ESP32-S3", Faults: faults})
		d := mustProbe(t, ctx, f, options("ESP32-S3"))
		plan := mustPlan(t, d, x509())
		err := d.Write(ctx, plan, nil)
		if err == nil {
			if seen < 4 {
				t.Errorf("%d cut writes were seen; that tests little", seen)
			}
			return
		}
		if !errors.Is(err, link.ErrGone) {
			t.Fatalf("block %d: got %v", block, err)
		}
		_ = d.Close(ctx)
		if err := f.socket.AwaitEmpty(ctx); err != nil {
			t.Fatal(err)
		}
		if err := f.socket.Insert(b); err != nil {
			t.Fatal(err)
		}
		again := mustProbe(t, ctx, f, options("ESP32-S3"))
		if missing := plan.Manifest.Missing(mustReadBack(t, ctx, again, plan.Manifest)); len(missing) > 0 {
			seen++
		} else if !holds(t, b, plan.Segments[0]) {
			t.Fatalf("block %d: a cut write reads as whole", block)
		}
		if err := again.Write(ctx, plan, nil); err != nil {
			t.Fatalf("block %d: writing again: %v", block, err)
		}
		if missing := plan.Manifest.Missing(mustReadBack(t, ctx, again, plan.Manifest)); len(missing) != 0 {
			t.Fatalf("block %d: %v missing after writing again", block, missing)
		}
		again.Close(ctx)
	}
}

func TestNoisyLineIsGotOver(t *testing.T) {
	for _, tt := range []struct {
		name   string
		faults boards.Faults
	}{
		{"noise before every answer", boards.Faults{Noise: 1}},
		{"one byte at a time", boards.Faults{Dribble: true}},
		{"answers lost", boards.Faults{Drop: 0.02}},
		{"answers late", boards.Faults{Late: 0.02}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			ctx, f := within(t), newFixture(t)
			f.insert(t, boards.Config{Chip: "ESP32", Faults: tt.faults})
			d := mustProbe(t, ctx, f, options("ESP32"))
			plan := mustPlan(t, d, symmetric())
			if err := d.Write(ctx, plan, nil); err != nil {
				t.Fatal(err)
			}
			if missing := plan.Manifest.Missing(mustReadBack(t, ctx, d, plan.Manifest)); len(missing) != 0 {
				t.Errorf("%v missing", missing)
			}
		})
	}
}

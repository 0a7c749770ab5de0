package ledger_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// needTool skips without the tool, unless NAMEPLATE_TOOLS=1 says that all are here.
func needTool(t *testing.T, name string) {
	t.Helper()
	if _, err := exec.LookPath(name); err == nil {
		return
	}
	if os.Getenv("NAMEPLATE_TOOLS") == "1" {
		t.Fatalf("%s is not installed", name)
	}
	t.Skipf("skipped: %s is not installed", name)
}

// integrity asks Debian's sqlite3, where it is installed, whether the file is whole.
func integrity(t *testing.T, path string) {
	t.Helper()
	if _, err := exec.LookPath("sqlite3"); err != nil && os.Getenv("NAMEPLATE_TOOLS") != "1" {
		t.Log("sqlite3 is not installed: integrity not checked by it")
		return
	}
	out, err := exec.Command("sqlite3", path, "PRAGMA integrity_check").CombinedOutput()
	if err != nil || strings.TrimSpace(string(out)) != "ok" {
		t.Errorf("sqlite3 says %s (%v)", out, err)
	}
}

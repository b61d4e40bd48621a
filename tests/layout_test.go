package tests

import (
	"cmp"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/vhost-user-vsock/vhost-user-vsock"

// imports is the table of docs/ARCHITECTURE.md: which of our packages each may
// import. Arrows go down only, and muxer and vhostuser never meet.
var imports = map[string][]string{
	"stats":     nil,
	"ratelog":   nil,
	"eventloop": {"stats"},
	"rxq":       nil,
	"killq":     nil,
	"hostsock":  nil,
	"sandbox":   nil,
	"control":   nil,
	"guestmem":  nil,
	"virtqueue": {"guestmem", "stats"},
	"csm":       {"guestmem"},
	"trace":     {"csm", "ratelog", "stats"},
	"vhostuser": {"eventloop", "guestmem", "ratelog", "stats", "virtqueue"},
	"muxer":     {"csm", "eventloop", "guestmem", "killq", "ratelog", "rxq", "stats", "trace", "virtqueue"},
	"activated": {"hostsock"},
	"config":    {"activated", "hostsock", "muxer", "sandbox", "trace"},
	"ctl":       {"config", "control"},
	"daemon":    {"activated", "config", "control", "eventloop", "hostsock", "muxer", "sandbox", "stats", "trace", "vhostuser"},

	"cmd/vhost-user-vsock": {"activated", "config", "ctl", "daemon"},
	"packaging/manual":     {"config", "ctl"},
}

// TestImportsGoDown holds the packages to the table.
func TestImportsGoDown(t *testing.T) {
	for pkg, allowed := range imports {
		out, err := exec.Command("go", "list", "-f", `{{join .Imports "\n"}}`, module+"/"+pkg).Output()
		if err != nil {
			t.Fatalf("go list %s: %v", pkg, err)
		}
		for imp := range strings.FieldsSeq(string(out)) {
			dep, ours := strings.CutPrefix(imp, module+"/")
			if ours && !slices.Contains(allowed, dep) {
				t.Errorf("%s must not import %s", pkg, dep)
			}
		}
	}
}

// TestUnsafeStaysInItsFiles looks for imports of unsafe outside *_unsafe.go, so
// that a review of memory safety knows where to look.
func TestUnsafeStaysInItsFiles(t *testing.T) {
	err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "build" || d.Name() == ".git") {
			return filepath.SkipDir
		}
		if !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_unsafe.go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if strings.Contains(string(text), "\n\t\"unsafe\"\n") || strings.Contains(string(text), "\nimport \"unsafe\"") {
			t.Errorf("%s imports unsafe; it belongs into a file named *_unsafe.go", path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestConformanceNamesTestsThatExist keeps docs/CONFORMANCE.md true: every test
// and file it names is there.
func TestConformanceNamesTestsThatExist(t *testing.T) {
	text, err := os.ReadFile("../docs/CONFORMANCE.md")
	if err != nil {
		t.Fatal(err)
	}
	defined := make(map[string]bool)
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	err = filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && (d.Name() == "build" || d.Name() == ".git") {
			return cmp.Or(err, fs.SkipDir)
		}
		if !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		source, err := os.ReadFile(path)
		for _, m := range function.FindAllSubmatch(source, -1) {
			defined[string(m[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllSubmatch(text, -1) {
		if !defined[string(m[1])] {
			t.Errorf("no test is named %s", m[1])
		}
	}
	for _, m := range regexp.MustCompile("`([a-z-]+(?:/[a-z-]+)*/[a-z]+\\.go)`").FindAllSubmatch(text, -1) {
		if _, err := os.Stat("../" + string(m[1])); err != nil {
			t.Error(err)
		}
	}
}

package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/vhost-user-vsock/vhost-user-vsock/sandbox"
)

// twoVMs is a good file. Lines are counted from 1.
const twoVMs = `# the first line
log-level: warn
runtime-dir: [., ..]
defaults:
  packed: true
  uds-mode: 0660
vms:
  - name: web
    guest-cid: 3
    socket: s1
    uds-path: u1
  - guest-cid: 4
    socket: s2
    uds-path: u2
    packed: false
    max-connections: 7
`

// loadFile loads a file with this text in the working directory.
func loadFile(t *testing.T, text string, args ...string) (Daemon, error) {
	t.Helper()
	if err := os.WriteFile("f", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return load(append(args, "--config", "f")...)
}

func TestFile(t *testing.T) {
	inTempDir(t)
	d, err := loadFile(t, twoVMs, "--log-format", "json", "--sandbox", "off")
	if err != nil {
		t.Fatal(err)
	}
	if d.File != "f" || d.LogLevel != logrus.WarnLevel || d.LogFormat != LogJSON || d.Sandbox != sandbox.Off ||
		strings.Join(d.RuntimeDirs, " ") != ". .." || len(d.VMs) != 2 {
		t.Fatalf("got %+v", d)
	}
	web, other := d.VMs[0], d.VMs[1]
	if web.Name != "web" || web.GuestCID.CID != 3 || !web.Packed || web.UDSAccess.Mode != 0o660 || web.MaxConnections != 4096 {
		t.Errorf("web: %+v", web)
	}
	if other.Name != "cid4" || other.GuestCID.CID != 4 || other.Packed || other.UDSAccess.Mode != 0o660 || other.MaxConnections != 7 {
		t.Errorf("the other one: %+v", other)
	}
}

// Options of the program on the command line win; others do not fit there.
func TestFileBesideFlags(t *testing.T) {
	inTempDir(t)
	if d, err := loadFile(t, twoVMs, "--log-level", "debug"); err != nil || d.LogLevel != logrus.DebugLevel {
		t.Errorf("log level %v, error %v", d.LogLevel, err)
	}
	if _, err := loadFile(t, twoVMs, "--packed"); err == nil || !strings.Contains(err.Error(), "--packed") || !strings.Contains(err.Error(), "--config") {
		t.Errorf("error %v", err)
	}
}

func TestFileWithoutVMs(t *testing.T) {
	inTempDir(t)
	if d, err := loadFile(t, "vms: []\n"); err != nil || len(d.VMs) != 0 {
		t.Errorf("%d VMs, error %v", len(d.VMs), err)
	}
}

func TestFileAliases(t *testing.T) {
	inTempDir(t)
	d, err := loadFile(t, "vms:\n- {socket: s, uds-path: u, uds-mode: &m 0640, socket-mode: *m}\n")
	if err != nil || d.VMs[0].SocketAccess.Mode != 0o640 {
		t.Errorf("got %+v, error %v", d.VMs, err)
	}
}

// Each fault is told with its line.
func TestFileErrors(t *testing.T) {
	for _, tt := range []struct {
		name, old, new string // replaced in twoVMs
		at, want       string
	}{
		{"bad value", "guest-cid: 4", "guest-cid: 2", "f:12: guest-cid \"2\"", "reserved"},
		{"another type of value", "guest-cid: 4", "guest-cid: four", "f:12: guest-cid \"four\"", "not a 32-bit number"},
		{"a number with a fraction", "max-connections: 7", "max-connections: 7.0", "f:16: max-connections", "not a count"},
		{"a switch of YAML 1.1", "packed: true", "packed: yes", "f:5: packed \"yes\"", "give true"},
		{"list for a value", "name: web", "name: [web]", "f:8: name", "not a single value"},
		{"mapping for a value", "name: web", "name: {a: b}", "f:8: name", "not a single value"},
		{"no value", "guest-cid: 3", "guest-cid:", "f:9: guest-cid", "no value"},
		{"no value in a list", "[., ..]", "[., ~]", "f:3: runtime-dir", "no value"},
		{"unknown key at the top", "log-level: warn", "log-levle: warn", "f:2: log-levle", "no such key"},
		{"unknown key of a VM", "    packed: false", "    pakced: false", "f:15: pakced", "no such key"},
		{"unknown default", "  packed: true", "  pakced: true", "f:5: pakced", "no such key"},
		{"key twice", "    packed: false", "    socket: s2", "f:15: socket", "line 13"},
		{"key twice, by its other name", "    packed: false", "    socket-path: s3", "f:15: socket-path", `"s2"`},
		{"top key twice", "log-level: warn", "vms: []", "f:7: vms", "line 2"},
		{"merge", "    packed: false", "    <<: {packed: false}", "f:15: <<", "no such key"},
		{"key that is no word", "    packed: false", "    [a]: false", "f:15", "no word"},
		{"option of VMs at the top", "log-level: warn", "packed: true", "f:2: packed", "defaults"},
		{"option of the program in a VM", "    packed: false", "    log-level: warn", "f:15: log-level", "at the top"},
		{"default that only one can have", "  packed: true", "  socket: s", "f:5: socket", "only one VM"},
		{"descriptor", "    packed: false", "    fd: 3", "f:15: fd", "command line"},
		{"no socket", "    socket: s2\n", "", "f:12: socket", "missing; give the path where the frontend connects"},
		{"name taken", "guest-cid: 4", "name: web", "f:12: name \"web\"", "another VM"},
		{"default name taken", "name: web", "name: cid4", "f:12: name \"cid4\"", "another VM"},
		{"socket taken", "s2", "s1", "f:13: socket \"s1\"", "the same"},
		{"path taken", "u2", "u1", "f:14: uds-path \"u1\"", "the same"},
		{"trace for all", "  packed: true", "  trace-packets: t", "f:5: trace-packets", "only one VM"},
		{"no directory for a trace", "packed: false", "trace-packets: gone/t", "f:15: trace-packets \"gone/t\"", "make it"},
		{"no directory", "u2", "gone/u2", "f:14: uds-path \"gone/u2\"", "make it"},
		{"no runtime directory", "[., ..]", "[., gone]", "f:3: runtime-dir \"gone\"", "make it"},
		{"VMs are no list", "vms:", "vms: 3\nx:", "f:7: vms", "not a list"},
		{"VM is no mapping", "  - name: web\n", "  - web\n  - name: web\n", "f:8", "KEY: VALUE"},
		{"defaults are no mapping", "defaults:", "defaults: []\nx:", "f:4", "KEY: VALUE"},
		{"no VMs", twoVMs, "log-level: warn\n", "f:1: vms", "missing"},
		{"nothing", twoVMs, "", "f: ", "empty"},
		{"a comment", twoVMs, "# nothing\n", "f: ", "empty"},
		{"not YAML", "    packed: false", "   packed: false", "f:15: not YAML", "expected"},
		{"unknown alias", "name: web", "name: *web", "f:8: not YAML", "web"},
		{"second document", "    max-connections: 7\n", "---\nvms: []\n", "f:1", "another document"},
		{"a list", twoVMs, "- vms\n", "f:1", "KEY: VALUE"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inTempDir(t)
			if !strings.Contains(twoVMs, tt.old) {
				t.Fatalf("%q is not in the file", tt.old)
			}
			_, err := loadFile(t, strings.Replace(twoVMs, tt.old, tt.new, 1))
			if err == nil {
				t.Fatal("accepted")
			}
			if text := err.Error(); !strings.HasPrefix(text, tt.at) || !strings.Contains(text, tt.want) {
				t.Errorf("error %q; want %q at %q", text, tt.want, tt.at)
			}
		})
	}
}

// Two VMs have two traces, also where one is renamed for a newer one.
func TestTracesAreApart(t *testing.T) {
	dir := inTempDir(t)
	for second, ok := range map[string]bool{"u": true, "t": false, "./t": false, dir + "/t": false, "t.old": false, "t.old.old": true} {
		_, err := loadFile(t, "vms:\n- {name: a, socket: s1, uds-path: u1, trace-packets: t}\n- {name: b, socket: s2, uds-path: u2, trace-packets: "+second+"}\n")
		if ok != (err == nil) || !ok && !(strings.HasPrefix(err.Error(), "f:3: trace-packets") && strings.Contains(err.Error(), `VM "a"`)) {
			t.Errorf("%s: error %v", second, err)
		}
	}
	_, err := loadFile(t, "vms:\n- {name: a, socket: s1, uds-path: u1, trace-packets: t.old}\n- {name: b, socket: s2, uds-path: u2, trace-packets: t}\n")
	if err == nil {
		t.Error("a former trace takes the place of another VM's")
	}
}

func TestFileThatIsNone(t *testing.T) {
	inTempDir(t)
	for path, want := range map[string]string{"gone": "no such file", ".": "not a regular file", "/dev/zero": "not a regular file", "": "one file"} {
		if _, err := load("--config", path); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "--config") {
			t.Errorf("%q: error %v, want %q", path, err, want)
		}
	}
	if _, err := loadFile(t, strings.Repeat("#", maxFile+1)); err == nil || !strings.Contains(err.Error(), "larger") {
		t.Errorf("error %v", err)
	}
}

// The file that is shown to users holds.
func TestExampleFile(t *testing.T) {
	text, err := os.ReadFile("../docs/config.yaml")
	if err != nil {
		t.Fatal(err)
	}
	inTempDir(t)
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	d, err := loadFile(t, strings.NewReplacer("/run/vhost-user-vsock/main", here).Replace(string(text)))
	if err != nil || len(d.VMs) < 2 || d.Control != filepath.Join(here, "control.sock") {
		t.Errorf("%d VMs, control socket %q, error %v", len(d.VMs), d.Control, err)
	}
}

var errElsewhere = errors.New("elsewhere")

// A program that runs asks whether it can still use a directory before it looks
// into it.
func TestReloadAsksForDirectories(t *testing.T) {
	dir := inTempDir(t)
	cid := filepath.Join(dir, "cid")
	if err := os.WriteFile(cid, []byte("9"), 0o600); err != nil {
		t.Fatal(err)
	}
	old, err := loadFile(t, strings.NewReplacer("guest-cid: 4", "guest-cid: "+cid, "packed: false", "trace-packets: t").Replace(twoVMs))
	if err != nil {
		t.Fatal(err)
	}
	line, err := ParseArgs([]string{"--config", "f"})
	if err != nil {
		t.Fatal(err)
	}
	for _, refused := range []struct {
		use Use
		at  string
	}{{MakeSockets, "f:11: uds-path"}, {ReadFiles, "f:12: guest-cid"}, {WriteFiles, "f:15: trace-packets"}} {
		_, err = line.Reload(old, func(_ string, use Use) error {
			if use == refused.use {
				return errElsewhere
			}
			return nil
		})
		if !errors.Is(err, errElsewhere) || !strings.HasPrefix(err.Error(), refused.at) {
			t.Errorf("error %v, want it at %s", err, refused.at)
		}
	}
}

// Each option of a VM that is not live makes it wait for its frontend, and each
// is seen.
func TestChangesOfVMs(t *testing.T) {
	inTempDir(t)
	old := mustLoadOne(t, "--socket", "s", "--uds-path", "u")
	for args, want := range map[string]Changes{
		"--guest-cid 4":          {Live: []string{"guest-cid"}, Waiting: []string{"name"}},
		"--name x":               {Waiting: []string{"name"}},
		"--socket-mode 0640":     {Waiting: []string{"socket-mode"}},
		"--socket-owner 1:1":     {Waiting: []string{"socket-owner"}},
		"--packed":               {Waiting: []string{"packed"}},
		"--inband-notifications": {Waiting: []string{"inband-notifications"}},
		"--uds-mode 0640":        {Waiting: []string{"uds-mode"}},
		"--uds-owner 1":          {Waiting: []string{"uds-owner"}},
		"--ok-port host":         {Waiting: []string{"ok-port"}},
		"--max-connections 5":    {Waiting: []string{"max-connections"}},
		"--max-buffered 1MiB":    {Live: []string{"max-buffered"}},
		"--wait-for-guest 30s":   {Live: []string{"wait-for-guest"}},
		"--poll-us 5":            {Waiting: []string{"poll-us"}},
		"--trace-packets t":      {Live: []string{"trace-packets"}},
		"--log-level debug":      {},
	} {
		now := mustLoadOne(t, append(strings.Fields(args), "--socket", "s", "--uds-path", "u")...)
		expectChanges(t, args, old.Changes(&now), want)
	}
	now := mustLoadOne(t, "--socket", "s2", "--uds-path", "u2")
	expectChanges(t, "paths", old.Changes(&now), Changes{Waiting: []string{"socket", "uds-path"}})
}

func TestChangesOfTheProgram(t *testing.T) {
	inTempDir(t)
	old := mustLoad(t, "--socket", "s", "--uds-path", "u")
	for args, want := range map[string]Changes{
		"--log-level debug":                  {Live: []string{"log-level"}},
		"--log-format json":                  {Waiting: []string{"log-format"}},
		"--metrics-addr 127.0.0.1:0":         {Waiting: []string{"metrics-addr"}},
		"--metrics-addr 127.0.0.1:0 --pprof": {Waiting: []string{"metrics-addr", "pprof"}},
		"--sandbox off":                      {Waiting: []string{"sandbox"}},
		"--runtime-dir .":                    {Waiting: []string{"runtime-dir"}},
		"--packed":                           {},
	} {
		now := mustLoad(t, append(strings.Fields(args), "--socket", "s", "--uds-path", "u")...)
		expectChanges(t, args, old.Changes(&now), want)
	}
}

func expectChanges(t *testing.T, of string, got, want Changes) {
	t.Helper()
	if strings.Join(got.Live, " ") != strings.Join(want.Live, " ") || strings.Join(got.Waiting, " ") != strings.Join(want.Waiting, " ") {
		t.Errorf("%s: got %+v, want %+v", of, got, want)
	}
}

// The document that describes the file names every option.
func TestConfigDocumentIsWhole(t *testing.T) {
	text, err := os.ReadFile("../docs/CONFIG.md")
	if err != nil {
		t.Fatal(err)
	}
	_ = eachOption(func(o *option) error {
		if !strings.Contains(string(text), "`"+o.name+"`") {
			t.Errorf("%s is missing", o.name)
		}
		return nil
	})
}

package tests

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// The tests of packages build them from copies of this tree, each in a directory and
// a git repository of its own, and install them below a directory.

// sourceTree is a copy of this tree.
type sourceTree struct{ dir string }

// copySources copies the tree as it is, committed or not, as one commit of a fixed
// date with the tag v1.2.3.
func copySources(t testing.TB, dir string) sourceTree {
	t.Helper()
	s := sourceTree{dir}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	runIn(t, "..", "sh", "-c", `tar -cf - --exclude=./.git --exclude=./build . | tar -xf - -C "$0"`, dir)
	runIn(t, dir, "git", "init", "-q")
	s.commit(t, "v1.2.3")
	return s
}

// commit makes a commit of all that is in the tree, with this tag.
func (s sourceTree) commit(t testing.TB, tag string) {
	t.Helper()
	const date = "2026-02-03T04:05:06Z"
	for _, args := range [][]string{
		{"add", "-A"},
		{"commit", "-q", "--allow-empty", "-m", tag},
		{"tag", tag},
	} {
		runIn(t, s.dir, "env", append([]string{
			"GIT_AUTHOR_DATE=" + date, "GIT_COMMITTER_DATE=" + date,
			"git", "-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false",
		}, args...)...)
	}
}

// built returns what is in build/release, names and contents.
func (s sourceTree) built(t testing.TB) map[string][]byte {
	t.Helper()
	dir := filepath.Join(s.dir, "build", "release")
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string][]byte)
	for _, e := range entries {
		if files[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// deb makes the package of the tree and returns its path.
func (s sourceTree) deb(t testing.TB) string {
	t.Helper()
	runIn(t, s.dir, "make", "-s", "deb")
	found, err := filepath.Glob(filepath.Join(s.dir, "build", "release", "*_"+runtime.GOARCH+".deb"))
	if err != nil || len(found) != 1 {
		t.Fatalf("packages %q, error %v", found, err)
	}
	return found[0]
}

// runIn runs a tool in a directory and returns what it prints.
func runIn(t testing.TB, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s%s", name, args, err, out, &stderr)
	}
	return string(out)
}

// The second tree is elsewhere, its files are of another time, and they are made
// under another umask.
func TestPackagesAreReproducible(t *testing.T) {
	dir := t.TempDir()
	first := copySources(t, filepath.Join(dir, "a"))
	second := copySources(t, filepath.Join(dir, "another", "directory"))
	runIn(t, first.dir, "make", "-s", "release")
	runIn(t, second.dir, "sh", "-c", "find . -name .git -prune -o -exec touch -h -d 2001-01-01 {} + && umask 077 && TZ=Asia/Tokyo make -s release")

	want, got := first.built(t), second.built(t)
	for name, content := range want {
		if !bytes.Equal(got[name], content) {
			t.Errorf("%s: %d bytes, and then %d other ones", name, len(content), len(got[name]))
		}
	}
	for _, name := range []string{
		"SHA256SUMS", "copyright",
		"vhost-user-vsock-linux-amd64", "vhost-user-vsock-linux-arm64",
		"vhost-user-vsock_1.2.3_amd64.deb", "vhost-user-vsock_1.2.3_arm64.deb",
	} {
		if len(want[name]) == 0 {
			t.Errorf("%s is missing", name)
		}
	}
	for _, arch := range []string{"amd64", "arm64"} {
		program := filepath.Join(first.dir, "build", "release", "vhost-user-vsock-linux-"+arch)
		if bytes.Contains(want[filepath.Base(program)], []byte(first.dir)) {
			t.Errorf("%s: the directory is in it", arch)
		}
		if out := runIn(t, ".", "go", "version", "-m", program); !strings.Contains(out, "GOARCH="+arch) || !strings.Contains(out, "CGO_ENABLED=0") {
			t.Errorf("%s: %s", arch, out)
		}
	}
}

// installation is a directory in place of the root.
type installation struct {
	t   testing.TB
	dir string
}

func newInstallation(t testing.TB) installation {
	t.Helper()
	in := installation{t, t.TempDir()}
	for _, dir := range []string{"info", "updates", "triggers"} {
		if err := os.MkdirAll(in.path("var/lib/dpkg/"+dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, file := range []string{"status", "available"} {
		if err := os.WriteFile(in.path("var/lib/dpkg/"+file), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return in
}

func (in installation) path(name string) string { return filepath.Join(in.dir, name) }

// dpkg runs it on the installation; who is not root is in a user name space.
func (in installation) dpkg(args ...string) string {
	in.t.Helper()
	args = append([]string{"dpkg", "--root=" + in.dir, "--log=/dev/null"}, args...)
	if os.Getuid() != 0 {
		args = append([]string{"unshare", "--user", "--map-root-user"}, args...)
	}
	return runIn(in.t, ".", "env", append([]string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, args...)...)
}

// files returns all files but dpkg's own.
func (in installation) files() (names []string) {
	in.t.Helper()
	for name := range strings.FieldsSeq(runIn(in.t, in.dir, "find", ".", "-path", "./var", "-prune", "-o", "-type", "f", "-print")) {
		names = append(names, strings.TrimPrefix(name, "."))
	}
	slices.Sort(names)
	return names
}

// needrestart has the upgrades of a machine leave instances alone. dpkg keeps it, as
// all that is below /etc, until a purge.
const needrestart = "/etc/needrestart/conf.d/vhost-user-vsock.conf"

// packaged are the files of the package.
var packaged = []string{
	needrestart,
	"/usr/bin/vhost-user-vsock",
	"/usr/lib/systemd/system/vhost-user-vsock@.service",
	"/usr/lib/systemd/system/vhost-user-vsock@.socket",
	"/usr/share/bash-completion/completions/vhost-user-vsock",
	"/usr/share/doc/vhost-user-vsock/CONFIG.md",
	"/usr/share/doc/vhost-user-vsock/CONTROL.md",
	"/usr/share/doc/vhost-user-vsock/changelog.gz",
	"/usr/share/doc/vhost-user-vsock/copyright",
	"/usr/share/doc/vhost-user-vsock/examples/alerts.yml",
	"/usr/share/doc/vhost-user-vsock/examples/config.yaml",
	"/usr/share/doc/vhost-user-vsock/examples/grafana.json",
	"/usr/share/doc/vhost-user-vsock/examples/prometheus.yml",
	"/usr/share/fish/vendor_completions.d/vhost-user-vsock.fish",
	"/usr/share/man/man8/vhost-user-vsock.8.gz",
	"/usr/share/qemu/vhost-user/50-vhost-user-vsock.json",
	"/usr/share/zsh/vendor-completions/_vhost-user-vsock",
}

func TestPackageAndRunningInstance(t *testing.T) {
	sources := copySources(t, filepath.Join(t.TempDir(), "sources"))
	in := newInstallation(t)
	in.dpkg("--install", sources.deb(t))
	if got := in.files(); !slices.Equal(got, packaged) {
		t.Errorf("installed %q, want %q", got, packaged)
	}
	if scripts := runIn(t, in.dir, "find", "var/lib/dpkg/info", "-name", "*inst", "-o", "-name", "*rm"); scripts != "" {
		t.Errorf("maintainer scripts: %s", scripts)
	}
	program := in.path("usr/bin/vhost-user-vsock")
	mustBeVersion(t, program, "v1.2.3")
	in.mustDescribe(program)
	in.mustHaveUnits()

	h := newHostBy(t, "shift; exec '"+program+`' "$@"`)
	if exe := h.exe(); exe != program {
		t.Fatalf("%s runs, not the package's", exe)
	}
	b := h.boot(t)
	g, c := b.dial()
	b.mustWorkAsBefore(g, c)

	sources.commit(t, "v1.2.4")
	in.dpkg("--install", sources.deb(t))
	mustBeVersion(t, program, "v1.2.4")
	h.mustBeReplaced(program)
	b.mustWorkAsBefore(g, c)

	const own = "/etc/vhost-user-vsock/main.yaml" // the administrator's
	if err := os.WriteFile(in.path(own), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	in.dpkg("--remove", "vhost-user-vsock")
	if left := in.files(); !slices.Equal(left, []string{needrestart, own}) {
		t.Errorf("left: %q", left)
	}
	in.dpkg("--purge", "vhost-user-vsock")
	if left := in.files(); !slices.Equal(left, []string{own}) {
		t.Errorf("left after the purge: %q", left)
	}
	h.mustBeReplaced(program)
	b.mustWorkAsBefore(g, c)
	b.mustWork(64 * kib)
}

func mustBeVersion(t testing.TB, program, version string) {
	t.Helper()
	if out := runIn(t, ".", program, "--version"); !strings.HasPrefix(out, "vhost-user-vsock "+version+" ") {
		t.Errorf("--version prints %q, want %s", out, version)
	}
}

// exe returns what the daemon executes.
func (h *host) exe() string {
	h.t.Helper()
	path, err := os.Readlink("/proc/" + strconv.Itoa(h.pid) + "/exe")
	if err != nil {
		h.t.Fatal(err)
	}
	return path
}

// mustBeReplaced wants the daemon to go on as what program was.
func (h *host) mustBeReplaced(program string) {
	h.t.Helper()
	if pid := listenerOf(h.t, h.UDS); pid != h.pid {
		h.t.Errorf("process %d serves, it was %d", pid, h.pid)
	}
	if exe := h.exe(); !strings.HasPrefix(exe, program) || !strings.HasSuffix(exe, " (deleted)") {
		h.t.Errorf("the daemon executes %s", exe)
	}
}

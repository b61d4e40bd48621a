package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/elastic/go-seccomp-bpf"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// withoutLandlock makes the test binary that is the program believe that it
// runs on a kernel without Landlock.
const withoutLandlock = "VHOST_USER_VSOCK_TEST_WITHOUT_LANDLOCK"

// forbidLandlock makes the system call fail as on such a kernel.
func forbidLandlock() error {
	return seccomp.LoadFilter(seccomp.Filter{
		NoNewPrivs: true,
		Flag:       seccomp.FilterFlagTSync,
		Policy: seccomp.Policy{
			DefaultAction: seccomp.ActionAllow,
			Syscalls: []seccomp.SyscallGroup{{
				Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS), Names: []string{"landlock_create_ruleset"},
			}},
		},
	})
}

// asNobody has the program started without privileges, if the tests have any,
// in the working directory, which is nobody's then.
func asNobody(t *testing.T) func(*exec.Cmd) {
	const nobody = 65534
	dir, err := os.MkdirTemp("", "nobody") // not t.TempDir, which nobody cannot reach
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Chdir(dir)
	return func(cmd *exec.Cmd) {
		if os.Getuid() != 0 {
			return
		}
		if err := os.Chown(dir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
		cmd.Path = "/proc/self/exe" // nobody may not come by its path
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
}

// expectStatus compares lines of the status of every thread of the program.
func (p *process) expectStatus(t *testing.T, want map[string]string) {
	t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", p.cmd.Process.Pid))
	if err != nil || len(threads) == 0 {
		t.Fatalf("threads %v, error %v", threads, err)
	}
	for _, thread := range threads {
		status, err := os.ReadFile(thread)
		if err != nil {
			continue // it has ended
		}
		for line := range strings.Lines(string(status)) {
			key, value, _ := strings.Cut(line, ":")
			value = strings.TrimSpace(value)
			if want, ok := want[key]; ok && value != want {
				t.Errorf("%s: %s: %s, want %s", thread, key, value, want)
			}
		}
	}
}

// expectReady waits for the line that the program logs once it serves, and
// returns what it logged.
func (p *process) expectReady(t *testing.T) string {
	t.Helper()
	waitFor(t, func() bool { return strings.Contains(p.stderr.String(), "msg=ready") })
	return p.stderr.String()
}

// landlockABI is the kernel's version of Landlock, 0 if it has none.
func landlockABI() int {
	abi, err := ll.LandlockGetABIVersion()
	if err != nil {
		return 0
	}
	return abi
}

func TestProcessIsConfined(t *testing.T) {
	for _, tt := range []struct {
		mode     string
		landlock bool
		seccomp  bool
	}{
		{"on", landlockABI() > 0, true},
		{"require", true, true},
		{"off", false, false},
	} {
		t.Run(tt.mode, func(t *testing.T) {
			if tt.mode == "require" && landlockABI() < 6 {
				t.Skip("this kernel has not all of it")
			}
			inTempDir(t)
			p := startDaemon(t, nil, "--sandbox", tt.mode)
			log := p.expectReady(t)
			if !strings.Contains(log, fmt.Sprintf("landlock=%v", tt.landlock)) || !strings.Contains(log, fmt.Sprintf("seccomp=%v", tt.seccomp)) {
				t.Errorf("log: %s", log)
			}
			filter := "0"
			if tt.seccomp {
				filter = "2" // SECCOMP_MODE_FILTER
			}
			var kept uint64
			if os.Getuid() == 0 {
				kept = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER
			}
			mask := fmt.Sprintf("%016x", kept)
			p.expectStatus(t, map[string]string{"NoNewPrivs": "1", "Seccomp": filter, "CapEff": mask, "CapPrm": mask})
			expectAnswer(t, dial(t, "s"))
			p.stop(t, unix.SIGTERM)
			expectFiles(t)
		})
	}
}

func TestProcessIsConfinedWithoutPrivileges(t *testing.T) {
	p := startDaemon(t, asNobody(t))
	p.expectReady(t)
	p.expectStatus(t, map[string]string{"Seccomp": "2", "CapEff": fmt.Sprintf("%016x", 0)})
	if os.Getuid() == 0 {
		expectAnswer(t, dial(t, "s"))
	}
	p.stop(t, unix.SIGTERM)
	expectFiles(t)
}

func TestProcessUsesADirectoryForEachSocket(t *testing.T) {
	inTempDir(t)
	for _, dir := range []string{"frontends", "programs"} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	p := startProcess(t, nil, "--socket", "frontends/s", "--uds-path", "programs/u")
	p.expectReady(t)
	p.stop(t, unix.SIGTERM)
	for _, dir := range []string{"frontends", "programs"} {
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s: left %v, error %v", dir, left, err)
		}
	}
}

// scrape returns what /metrics shows.
func (p *process) scrape(t *testing.T) string {
	t.Helper()
	return string(p.get(t, "/metrics"))
}

// get returns what is served at a path of --metrics-addr.
func (p *process) get(t *testing.T, path string) []byte {
	t.Helper()
	addr := regexp.MustCompile(`metrics_addr="?([^" ]+)`).FindStringSubmatch(p.expectReady(t))
	if addr == nil {
		t.Fatalf("log: %s", p.stderr.String())
	}
	client := http.Client{Timeout: testLimit, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + addr[1] + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %s", path, resp.Status)
	}
	return text
}

// processSeries returns the names of what /metrics shows about the process.
func processSeries(t *testing.T, p *process) (names []string) {
	t.Helper()
	for line := range strings.Lines(p.scrape(t)) {
		if name, _, _ := strings.Cut(line, " "); strings.HasPrefix(name, "process_") {
			names = append(names, name)
		}
	}
	return names
}

func TestProcessMetricsFromInside(t *testing.T) {
	series := func(mode string) []string {
		p := startDaemon(t, asNobody(t), "--metrics-addr", "127.0.0.1:0", "--sandbox", mode)
		defer p.stop(t, unix.SIGTERM)
		return processSeries(t, p)
	}
	outside, inside := series("off"), series("on")
	if len(outside) == 0 || !slices.Equal(inside, outside) {
		t.Errorf("inside %q, outside %q", inside, outside)
	}
}

// The first line is logged where the file is out of reach.
func TestProcessKnowsItsTimeZoneInside(t *testing.T) {
	dir := inTempDir(t)
	zone := filepath.Join(dir, "zone")
	// tzfile(5): one type of local time, 9 hours before UTC, and its name.
	tzif := slices.Concat([]byte("TZif"), make([]byte, 16),
		[]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 4},
		[]byte{0, 0, 9 * 3600 >> 8, 9 * 3600 & 0xff, 0, 0}, []byte("JST\x00"))
	if err := os.WriteFile(zone, tzif, 0o600); err != nil {
		t.Fatal(err)
	}
	prepare := func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, "TZ=:"+zone) }
	p := startDaemon(t, prepare)
	for line := range strings.Lines(p.expectReady(t)) {
		if !strings.Contains(line, "+09:00") {
			t.Errorf("another time zone: %s", line)
		}
	}
	p.stop(t, unix.SIGTERM)
}

func TestProcessOnAKernelWithoutLandlock(t *testing.T) {
	prepare := func(cmd *exec.Cmd) { cmd.Env = append(cmd.Env, withoutLandlock+"=1") }
	t.Run("on", func(t *testing.T) {
		inTempDir(t)
		p := startDaemon(t, prepare)
		if log := p.expectReady(t); strings.Count(log, "missing=") != 1 || !strings.Contains(log, "landlock=false") {
			t.Errorf("log: %s", log)
		}
		p.stop(t, unix.SIGTERM)
	})
	t.Run("require", func(t *testing.T) {
		inTempDir(t)
		p := startProcess(t, prepare, "--socket", "s", "--uds-path", "u", "--sandbox", "require", "--metrics-addr", "127.0.0.1:0")
		p.expectExit(t, exitError, testLimit)
		if log := p.stderr.String(); !strings.Contains(log, "--sandbox: landlock: ") || strings.Contains(log, "ready") {
			t.Errorf("log: %s", log)
		}
		expectFiles(t)
	})
}

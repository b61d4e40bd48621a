package main

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/control"
	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
)

// client is a run of "ctl" as a process of its own, which has ended.
type client struct {
	code           int
	stdout, stderr string
}

// prepareCtl returns a "ctl" that talks to the control socket c of the working directory.
func prepareCtl(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	socket, err := filepath.Abs("c")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, append([]string{"ctl", "--control", socket}, args...)...)
	cmd.Env = append(os.Environ(), asDaemon+"=1", "GORACE=atexit_sleep_ms=0")
	return cmd
}

func runCtl(t *testing.T, cmd *exec.Cmd) client {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Run() //nolint:errcheck // the exit code tells
	return client{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// mustCtl runs a command that has to succeed and returns what it prints.
func mustCtl(t *testing.T, args ...string) string {
	t.Helper()
	c := runCtl(t, prepareCtl(t, args...))
	if c.code != exitOK || c.stderr != "" {
		t.Fatalf("ctl %q: exit code %d, stderr %q", args, c.code, c.stderr)
	}
	return c.stdout
}

// expectLine looks for a line of the text that the expression matches.
func expectLine(t *testing.T, text, expression string) {
	t.Helper()
	if !regexp.MustCompile("(?m)^" + expression + "$").MatchString(text) {
		t.Errorf("no line is %s:\n%s", expression, text)
	}
}

func TestCtlShowsVMsAndConnections(t *testing.T) {
	inTempDir(t)
	p := startFleet(t, "--control", "c")
	g := startGuestOf(t, "a", 3, 9)
	program := g.connect(t, listenAt(t, "ua_9"))
	g.mustCarry(t, program, []byte("seven b"))

	vms := mustCtl(t, "vms")
	expectLine(t, vms, `a +running +3 +1/4096 +7B +0B +0B +[\d.]+s +config +ua`)
	expectLine(t, vms, `b +waiting +4 +0/4096 +0B +0B +0B +[\d.]+s +config +ub`)
	expectLine(t, mustCtl(t, "connections"), `a +stream +1000 -> 9 +established +[\d.]+s +7B +0B +256KiB +0B +-`)
	expectLine(t, mustCtl(t, "connections", "a"), `a +stream .*`)
	if all := mustCtl(t, "connections", "b"); strings.Count(all, "\n") != 1 {
		t.Errorf("connections of b: %s", all)
	}
	expectLine(t, mustCtl(t, "top"), `a +running +1 .*`)

	var answer struct{ VMs []control.VM }
	if err := json.Unmarshal([]byte(mustCtl(t, "vms", "--json")), &answer); err != nil {
		t.Fatal(err)
	}
	if len(answer.VMs) != 2 || answer.VMs[0].Name != "a" || answer.VMs[0].TxBytes != 7 {
		t.Errorf("%+v", answer)
	}
	p.stop(t, unix.SIGTERM)
}

func TestCtlChangesVMs(t *testing.T) {
	dir := inTempDir(t)
	p := startFleet(t, "--control", "c")
	if err := os.Mkdir("elsewhere", 0o700); err != nil {
		t.Fatal(err)
	}
	add := prepareCtl(t, "add", "name=c,guest-cid=5,socket=../sc,uds-path="+dir+"/uc,max-connections=7")
	add.Dir = "elsewhere"
	if c := runCtl(t, add); c.code != exitOK || c.stdout != "c is there: its VMM connects to "+dir+"/sc, host programs to "+dir+"/uc\n" {
		t.Fatalf("%+v", c)
	}
	expectLine(t, mustCtl(t, "vms"), `c +waiting +5 +0/7 .* +control +`+dir+"/uc")
	g := startGuestOf(t, "c", 5, 9)
	program := g.connect(t, listenAt(t, "uc_9"))
	g.mustCarry(t, program, []byte("as any other"))

	if got := mustCtl(t, "log-level"); got != "info\n" {
		t.Errorf("log level %q", got)
	}
	if got := mustCtl(t, "log-level", "debug"); got != "debug\n" {
		t.Errorf("log level %q", got)
	}
	if got := mustCtl(t, "drain", "c", "--timeout", "50ms"); got != "c is gone; connections cut: 1\n" {
		t.Errorf("drained: %q", got)
	}
	g.expect(t, csm.OpRST)
	expectEOF(t, program)
	if got := mustCtl(t, "remove", "b"); got != "b is gone\n" {
		t.Errorf("removed: %q", got)
	}
	expectGone(t, "sb", "ub", "sc", "uc")
	if vms := mustCtl(t, "vms"); strings.Count(vms, "\n") != 2 {
		t.Errorf("left: %s", vms)
	}
	p.stop(t, unix.SIGTERM)
}

func TestCtlTellsWhatIsWrong(t *testing.T) {
	inTempDir(t)
	p := startFleet(t, "--control", "c")
	for _, tt := range []struct {
		args   []string
		code   int
		stderr string
	}{
		{[]string{"remove", "none"}, exitError, `vhost-user-vsock ctl: VM "none": `},
		{[]string{"add", "name=a,socket=sc,uds-path=uc"}, exitError, `vhost-user-vsock ctl: name "a": `},
		{[]string{"add", "name=c,socket=sc,uds-path=uc,guest-cid=2"}, exitError, `guest-cid "2": reserved`},
		{[]string{"log-level", "loud"}, exitError, `level "loud": not a level; give error, warn, info or debug`},
		{[]string{"add", "name=c,soket=s"}, exitUsage, `soket: no option of a VM has this name`},
	} {
		if c := runCtl(t, prepareCtl(t, tt.args...)); c.code != tt.code || c.stdout != "" || !strings.Contains(c.stderr, tt.stderr) {
			t.Errorf("%q: %+v", tt.args, c)
		}
	}
	p.stop(t, unix.SIGTERM)
	if c := runCtl(t, prepareCtl(t, "vms")); c.code != exitError || !strings.Contains(c.stderr, "is the daemon running with --control ") {
		t.Errorf("without a daemon: %+v", c)
	}
}

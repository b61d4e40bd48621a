package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
)

// startFleet starts the program with two VMs: a with CID 3, and b with CID 4.
func startFleet(t *testing.T, args ...string) *process {
	t.Helper()
	p := startProcess(t, nil, append([]string{
		"--vm", "name=a,socket=sa,uds-path=ua", "--vm", "name=b,guest-cid=4,socket=sb,uds-path=ub",
	}, args...)...)
	p.expectReady(t)
	return p
}

// startGuestOf boots the guest of a VM of the fleet.
func startGuestOf(t *testing.T, vm string, cid uint64, port uint32) *testGuest {
	t.Helper()
	g := startGuest(t, vhostusertest.Dial(t, "s"+vm), port)
	g.cid = cid
	return g
}

// listenAt serves what a guest dials.
func listenAt(t *testing.T, path string) *net.UnixListener {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	l.SetDeadline(time.Now().Add(testLimit))
	return l
}

// connect has the guest connect to its port of the host, where l listens.
func (g *testGuest) connect(t *testing.T, l *net.UnixListener) *net.UnixConn {
	t.Helper()
	g.send(csm.OpRequest, nil)
	g.expect(t, csm.OpResponse)
	program, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	program.SetDeadline(time.Now().Add(testLimit))
	return program
}

// mustCarry sends bytes from the guest to its host program.
func (g *testGuest) mustCarry(t *testing.T, program io.Reader, payload []byte) {
	t.Helper()
	g.send(csm.OpRW, payload)
	got := make([]byte, len(payload))
	if _, err := io.ReadFull(program, got); err != nil || !bytes.Equal(got, payload) {
		t.Errorf("program read %q, error %v; want %q", got, err, payload)
	}
}

func TestProcessServesTwoVMs(t *testing.T) {
	inTempDir(t)
	p := startFleet(t, "--metrics-addr", "127.0.0.1:0", "--max-connections", "7")
	la, lb := listenAt(t, "ua_9"), listenAt(t, "ub_9")
	a, b := startGuestOf(t, "a", 3, 9), startGuestOf(t, "b", 4, 9)
	pa, pb := a.connect(t, la), b.connect(t, lb)
	a.mustCarry(t, pa, []byte("from a"))
	b.mustCarry(t, pb, []byte("and from b"))

	metrics := p.scrape(t)
	for _, want := range []string{
		`payload_bytes_total{direction="tx",vm="a"} 6`, `payload_bytes_total{direction="tx",vm="b"} 10`,
		`guest_cid{state="active",vm="a"} 3`, `guest_cid{state="active",vm="b"} 4`,
		`connections_limit{vm="a"} 7`, `connections_limit{vm="b"} 7`, // beside --vm, for both
		`vm_up{vm="a"} 1`, `vm_up{vm="b"} 1`,
	} {
		if !strings.Contains(metrics, "\nvhost_user_vsock_"+want+"\n") {
			t.Errorf("missing: %s", want)
		}
	}
	a.frontend.Close()
	expectEOF(t, pa)
	b.mustCarry(t, pb, []byte("b goes on"))
	p.stop(t, unix.SIGTERM)
	expectEOF(t, pb)
	expectFiles(t, "ua_9", "ub_9") // the programs' own
}

// A guest must not get at another one, whatever its paths lead to.
func TestProcessKeepsVMsApart(t *testing.T) {
	inTempDir(t)
	p := startFleet(t)
	a := startGuestOf(t, "a", 3, 22)
	a.expectApart(t, "ua_22", "sb", "ub", "ub_seqpacket")
	p.stop(t, unix.SIGTERM)
}

// Of the VMs that the program starts with all have to start.
func TestProcessStartsAllVMsOrNone(t *testing.T) {
	inTempDir(t)
	defer listenAt(t, "sb").Close()
	p := startProcess(t, nil, "--vm", "name=a,socket=sa,uds-path=ua", "--vm", "name=b,socket=sb,uds-path=ub")
	p.expectExit(t, exitError, testLimit)
	if log := p.stderr.String(); !strings.Contains(log, "VM b: --socket: ") || !strings.Contains(log, "listening") {
		t.Errorf("log: %s", log)
	}
	expectFiles(t, "sb")
}

// A VM ends with the session that it inherited, and alone. Its descriptor is not
// looked for again.
func TestProcessOutlivesAnInheritedSession(t *testing.T) {
	inTempDir(t)
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs := os.NewFile(uintptr(fds[1]), "inherited")
	frontend := vhostusertest.New(t, fds[0])
	p := startProcess(t, inheritFile(theirs), "--metrics-addr", "127.0.0.1:0",
		"--vm", "name=a,socket=sa,uds-path=ua", "--vm", "name=b,guest-cid=4,fd=3,uds-path=ub")
	theirs.Close()
	p.expectReady(t)
	frontend.GetFeatures()
	frontend.Close()
	waitFor(t, func() bool { return !strings.Contains(p.scrape(t), `vm="b"`) })
	expectGone(t, "ub")
	if err := p.cmd.Process.Signal(unix.SIGHUP); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return strings.Contains(p.stderr.String(), "read again") })
	expectGone(t, "ub")
	expectAnswer(t, dial(t, "sa"))
	p.stop(t, unix.SIGTERM)
}

// There are more loops than processors, and Go leaves it to the kernel which of
// them runs.
func TestProcessRunsAllLoopsAtOnce(t *testing.T) {
	if procs, set := os.LookupEnv("GOMAXPROCS"); set { // it would stay so
		os.Unsetenv("GOMAXPROCS")
		defer os.Setenv("GOMAXPROCS", procs)
	}
	const vms = 9
	var text strings.Builder
	text.WriteString("vms:\n" + vmA)
	for i := range vms - 1 {
		fmt.Fprintf(&text, "- {name: vm%d, socket: s%d, uds-path: u%d}\n", i, i, i)
	}
	p := startFiled(t, "vms:\n"+vmA)
	p.reload(t, text.String())
	var procs int
	for line := range strings.Lines(p.scrape(t)) {
		if n, ok := strings.CutPrefix(line, "go_sched_gomaxprocs_threads "); ok {
			procs, _ = strconv.Atoi(strings.TrimSpace(n))
		}
	}
	if procs < vms+1 {
		t.Errorf("GOMAXPROCS is %d", procs)
	}
	for i := range vms - 1 {
		expectAnswer(t, dial(t, fmt.Sprintf("s%d", i)))
	}
	p.stop(t, unix.SIGTERM)
}

package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
)

// unit is what systemd.socket(5) describes: sockets that listen before the program
// runs.
type unit struct {
	names []string
	files []*os.File
}

// listen adds a socket. Paths begin in the working directory, and have mode 0666.
func (u *unit) listen(t *testing.T, name, network, addr string) string {
	t.Helper()
	if network != "tcp" {
		dir, err := os.Getwd()
		if err != nil {
			t.Fatal(err)
		}
		addr = filepath.Join(dir, addr)
	}
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if l, ok := l.(*net.UnixListener); ok {
		l.SetUnlinkOnClose(false)
		if err := os.Chmod(addr, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	f, err := l.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	u.names = append(u.names, name)
	u.files = append(u.files, f)
	t.Cleanup(func() { f.Close() })
	return l.Addr().String()
}

// pass has the program started with the sockets: sd_listen_fds(3). They are blocking
// and not close-on-exec.
func (u *unit) pass(t *testing.T) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) {
		for _, f := range u.files {
			f.Fd() // makes it blocking
		}
		cmd.ExtraFiles = u.files
		cmd.Env = append(cmd.Env, fmt.Sprintf("LISTEN_FDS=%d", len(u.files)), "LISTEN_FDNAMES="+strings.Join(u.names, ":"))
		shell(t, cmd, `export LISTEN_PID=$$; exec "$0" "$@"`)
	}
}

// expectListening wants sockets of a unit to be there, with their mode, and somebody
// to listen.
func expectListening(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			t.Error(err)
			continue
		}
		if info.Mode() != os.ModeSocket|0o666 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		dialAs(t, "unix", path).Close()
	}
}

func dialAs(t *testing.T, network, path string) net.Conn {
	t.Helper()
	c, err := net.Dial(network, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(testLimit))
	return c
}

// A frontend and host programs that come before the program runs are served. The
// sockets' files are none of its business.
func TestActivationServesWhoCameBefore(t *testing.T) {
	inTempDir(t)
	var u unit
	u.listen(t, "socket", "unix", "s")
	u.listen(t, "uds-path", "unix", "u")
	u.listen(t, "uds-path_seqpacket", "unixpacket", "u_seqpacket")
	addr := u.listen(t, "metrics-addr", "tcp", "127.0.0.1:0")
	frontend := vhostusertest.Dial(t, "s")
	program, packets := dialAs(t, "unix", "u"), dialAs(t, "unixpacket", "u_seqpacket")
	for _, c := range []net.Conn{program, packets} {
		if _, err := io.WriteString(c, "CONNECT 22\n"); err != nil {
			t.Fatal(err)
		}
	}
	scrape := dialAs(t, "tcp", addr)
	if _, err := io.WriteString(scrape, "GET /healthz HTTP/1.0\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	p := startProcess(t, u.pass(t), "--uds-path", "u", "--uds-mode", "0600", "--wait-for-guest", "1m", "--log-level", "debug")
	if log := p.expectReady(t); !strings.Contains(log, `inherited="[socket uds-path uds-path_seqpacket]"`) {
		t.Errorf("log: %s", log)
	}
	g := startGuest(t, frontend, 22)
	g.accept(t)
	expectOK(t, program)
	expectEOF(t, packets) // this driver knows no SEQPACKET
	if text, err := io.ReadAll(scrape); err != nil || !strings.HasSuffix(string(text), "ok\n") {
		t.Errorf("/healthz: %q, error %v", text, err)
	}
	g.expectApart(t, "u_22", "s", "u", "u_seqpacket")
	p.stop(t, unix.SIGTERM)
	expectEOF(t, program)
	expectListening(t, "s", "u")
	expectFiles(t, "s", "u", "u_seqpacket")
}

// accept has the guest accept one connection of a host program, which it waits for.
func (g *testGuest) accept(t *testing.T) {
	t.Helper()
	waitFor(t, func() bool {
		h, ok := g.receive()
		if ok && h.Op == csm.OpRequest {
			g.sendPacket(csm.Header{
				SrcCID: g.cid, DstCID: csm.HostCID, SrcPort: h.DstPort, DstPort: h.SrcPort,
				Type: h.Type, Op: csm.OpResponse, BufAlloc: 256 << 10,
			}, nil)
			return true
		}
		return false
	})
}

// expectOK reads the answer to a CONNECT.
func expectOK(t *testing.T, program net.Conn) {
	t.Helper()
	answer := make([]byte, 32)
	if n, err := program.Read(answer); err != nil || !strings.HasPrefix(string(answer[:n]), "OK ") {
		t.Errorf("answer %q, error %v", answer[:n], err)
	}
}

// Names may be left out where the addresses tell.
func TestActivationByAddress(t *testing.T) {
	inTempDir(t)
	var u unit
	u.listen(t, "vhost-user-vsock@main.socket", "unix", "sb")
	u.listen(t, "vhost-user-vsock@main.socket", "unix", "ua")
	p := startProcess(t, u.pass(t), "--vm", "name=a,socket=sa,uds-path=ua", "--vm", "name=b,guest-cid=4,socket=sb,uds-path=ub")
	p.expectReady(t)
	a, b := startGuestOf(t, "a", 3, 22), startGuestOf(t, "b", 4, 9)
	b.mustCarry(t, b.connect(t, listenAt(t, "ub_9")), []byte("by an inherited socket"))
	a.expectApart(t, "ua_22", "sb", "ua", "ub")
	p.stop(t, unix.SIGTERM)
	expectListening(t, "sb", "ua")
	expectFiles(t, "sb", "ua", "ub_9")
}

func TestActivationIsRefused(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(t *testing.T, u *unit)
		want []string
	}{
		{"for nothing", func(t *testing.T, u *unit) { u.listen(t, "sokcet", "unix", "x") },
			[]string{`"sokcet"`, "descriptor 3", "/x", "socket at s", "uds-path at u", "metrics-addr"}},
		{"of another type", func(t *testing.T, u *unit) { u.listen(t, "socket", "unixpacket", "x") }, []string{`"socket"`, "takes a unix one"}},
		{"not a socket", func(t *testing.T, u *unit) {
			null, err := os.Open(os.DevNull)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { null.Close() })
			u.names, u.files = append(u.names, "uds-path"), append(u.files, null)
		}, []string{`"uds-path"`, "pass on a socket"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inTempDir(t)
			var u unit
			tt.make(t, &u)
			p := startProcess(t, u.pass(t), "--socket", "s", "--uds-path", "u")
			p.expectExit(t, exitUsage, testLimit)
			for _, want := range tt.want {
				if log := p.stderr.String(); !strings.Contains(log, want) {
					t.Errorf("%q is missing: %s", want, log)
				}
			}
			expectGone(t, "s", "u")
		})
	}
}

// Descriptors for another process are none of ours.
func TestActivationOfAnotherProcess(t *testing.T) {
	inTempDir(t)
	var u unit
	u.listen(t, "nothing", "unix", "x")
	pass := u.pass(t)
	p := startProcess(t, func(cmd *exec.Cmd) { pass(cmd); cmd.Args[2] = `export LISTEN_PID=1; exec "$0" "$@"` }, "--socket", "s", "--uds-path", "u")
	p.await(t, "s")
	expectAnswer(t, dial(t, "s"))
	p.stop(t, unix.SIGTERM)
}

// Nothing that the program starts gets the sockets.
func TestActivationEndsHere(t *testing.T) {
	inTempDir(t)
	var u unit
	u.listen(t, "socket", "unix", "s")
	p := startProcess(t, u.pass(t), "--uds-path", "u")
	p.expectReady(t)
	fds, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", p.cmd.Process.Pid))
	if err != nil {
		t.Fatal(err)
	}
	sockets := 0
	for _, fd := range fds {
		if to, err := os.Readlink(fd); err != nil || !strings.HasPrefix(to, "socket:") {
			continue
		}
		info, err := os.ReadFile(strings.Replace(fd, "/fd/", "/fdinfo/", 1))
		var pos, flags int
		if err == nil {
			_, err = fmt.Sscanf(string(info), "pos:%d\nflags:%o", &pos, &flags)
		}
		if err != nil || flags&unix.O_CLOEXEC == 0 {
			t.Errorf("%s: flags %#o, error %v", fd, flags, err)
		}
		sockets++
	}
	if sockets < 4 { // the inherited one, its other descriptor, and two that were made
		t.Errorf("%d sockets", sockets)
	}
	p.stop(t, unix.SIGTERM)
}

// startActivated starts the program with a configuration file and the sockets of u.
func startActivated(t *testing.T, u *unit, text string) *filed {
	t.Helper()
	writeConfig(t, text)
	p := startProcess(t, u.pass(t), "--config", "config/f", "--metrics-addr", "127.0.0.1:0")
	p.expectReady(t)
	return &filed{process: p}
}

// A reload leaves a VM its sockets where their paths stay, and a VM that is removed
// leaves them to the next.
func TestActivationAndReload(t *testing.T) {
	inTempDir(t)
	var u unit
	u.listen(t, "a/socket", "unix", "sa")
	u.listen(t, "unit", "unix", "ua")
	p := startActivated(t, &u, "vms:\n- {name: a, uds-path: ua}\n")
	first := dial(t, "sa")
	expectAnswer(t, first)
	next := dial(t, "sa") // at the door of a VM that waits to be replaced
	p.reload(t, "vms:\n- {name: a, uds-path: ua, packed: true}\n"+vmB)
	p.expectMetrics(t, `vm_waiting_options{vm="a"} 1`)
	first.Close()
	next.Close()
	waitFor(t, func() bool { return strings.Contains(p.scrape(t), `vm_waiting_options{vm="a"} 0`) })
	frontend := vhostusertest.Dial(t, "sa")
	const packed = 1 << 34 // VIRTIO_F_RING_PACKED
	if features := frontend.GetFeatures(); features&packed == 0 {
		t.Errorf("features %#x", features)
	}
	expectListening(t, "sa", "ua")

	p.reload(t, "vms:\n"+vmB)
	frontend.WaitClosed()
	waiting := dial(t, "sa") // nobody serves it, but the socket listens
	if log := p.reload(t, "vms:\n- {name: a, socket: sa2, uds-path: ua}\n"+vmB); !strings.Contains(log, "inherited=\"[unit]\"") {
		t.Errorf("log: %s", log)
	}
	elsewhere := dial(t, "sa2")
	expectAnswer(t, elsewhere)
	elsewhere.Close()
	p.reload(t, "vms:\n- {name: a, uds-path: ua}\n"+vmB)
	expectAnswer(t, waiting)
	p.stop(t, unix.SIGTERM)
	expectListening(t, "sa", "ua")
	expectGone(t, "sa2", "ua_seqpacket", "sb", "ub")
}

// systemd's own starter begins the program with the first connection.
func TestActivationBySystemd(t *testing.T) {
	dir := inTempDir(t)
	starter, err := exec.LookPath("systemd-socket-activate")
	if err != nil {
		t.Fatal(err)
	}
	p := startProcess(t, func(cmd *exec.Cmd) {
		args := []string{starter, "--listen", dir + "/s", "--listen", dir + "/u", "--fdname=socket:uds-path", "--setenv", asDaemon}
		cmd.Args = append(args, cmd.Args...)
		cmd.Path = starter
	}, "--uds-path", "u")
	p.await(t, "u")
	frontend := dial(t, "s")
	expectAnswer(t, frontend)
	p.expectReady(t)
	program := dial(t, "u")
	if _, err := io.WriteString(program, "CONNECT 1\n"); err != nil {
		t.Fatal(err)
	}
	expectEOF(t, program) // no guest
	p.stop(t, unix.SIGTERM)
	expectFiles(t, "s", "u")
}

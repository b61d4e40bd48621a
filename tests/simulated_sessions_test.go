package tests

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

// getFeatures is a whole message: who has sent it wants the device.
var getFeatures = vhostusertest.Message(vhostuser.MsgGetFeatures, 0, nil)

// Connections that say nothing, stay or go, cost a live guest nothing.
func TestSimulatedSilentFrontends(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	var silent []*vhostusertest.Frontend
	for range 3 { // before there is a session
		h.frontend(t).Close()
		silent = append(silent, h.frontend(t))
	}
	b := h.boot(t)
	g, c := b.dial()
	for range 1000 {
		h.frontend(t).Close()
	}
	for range 20 {
		silent = append(silent, h.frontend(t))
	}
	half := h.frontend(t)
	half.Write(getFeatures[:11])
	h.await(8, "frontend_candidates")
	for _, f := range silent[:15] {
		f.WaitClosed() // each made room for another
	}
	mustWrite(t, g, []byte("still here"))
	mustReadJust(t, c, []byte("still here"))
	b.mustWork(mib)
	if n := h.metric("sessions_started_total"); n != 1 {
		t.Errorf("%d sessions", n)
	}
	b.powerOff()
	b.peer.Shutdown()
	mustEndAt(t, c)
	h.mustServe(t)
}

// Eight who want the device wait for it, and are served in turn; a ninth is sent
// away.
func TestSimulatedFrontendsWait(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	live := h.boot(t)
	var waiting []*vhostusertest.Frontend
	for i := range 8 {
		f := h.frontend(t)
		f.Write(getFeatures)
		waiting = append(waiting, f)
		h.await(i+1, "frontend_candidates")
	}
	live.mustWork(64 * kib)
	live.frontend.Barrier() // and with it, all that came before was read
	late := h.frontend(t)
	late.TryWrite(getFeatures) // it may be closed already
	late.WaitClosed()
	live.powerOff()
	live.peer.Shutdown()
	for _, f := range waiting {
		f.Reply(vhostuser.MsgGetFeatures)
		b := &board{t: t, host: h, frontend: f, memory: vhostusertest.NewGuest(t, vhostusertest.GuestOptions{Extents: ram}), relays: func() {}}
		b.peer = vhostusertest.QEMU72(f, b.memory)
		b.peer.Init()
		b.start()
		b.mustWork(64 * kib)
		b.powerOff()
		f.Close()
	}
	h.mustServe(t)
	h.await(10, "sessions_ended_total", `reason="closed"`)
}

// A frontend may be back before the daemon has seen the end of its predecessor.
func TestSimulatedFastRestart(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	old := h.boot(t)
	for range 20 {
		g, c := old.dial()
		mustWrite(t, g, []byte("last words"))
		next := h.frontend(t)
		next.Write(getFeatures)
		old.powerOff()
		old.frontend.Close()
		next.Reply(vhostuser.MsgGetFeatures)
		mustRead(t, c, []byte("last words"))
		old = &board{t: t, host: h, frontend: next, memory: vhostusertest.NewGuest(t, vhostusertest.GuestOptions{Extents: ram}), relays: func() {}}
		old.peer = vhostusertest.QEMU10(next, old.memory)
		old.peer.Init()
		old.start()
		old.mustWork(16 * kib)
	}
}

// A thousand sessions, half of them cut off in the middle of a conversation, leave
// nothing behind.
func TestSimulatedThousandSessionsLeaveNothing(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	session := func(i int) {
		s := &scope{TB: t}
		defer s.end()
		peer := vhostusertest.Peers[i%len(vhostusertest.Peers)]
		b := h.plug(s, peer.New, vhostusertest.GuestOptions{RingSize: 32, Extents: []virtqueuetest.Extent{{GuestAddr: 1 << 20, Size: 4 << 20}}})
		b.relayed = peer.Name == "UML"
		b.start()
		g, c := b.dial()
		c2, g2 := b.call()
		mustWrite(t, c, []byte("ping"))
		mustWrite(t, g2, []byte("pong"))
		if i%2 == 0 {
			mustReadJust(t, g, []byte("ping"))
			g.Close()
			mustEndAt(t, c)
		}
		b.powerOff()
		if i%3 == 0 {
			b.frontend.Close()
		} else {
			b.peer.Shutdown()
		}
		mustRead(t, c2, []byte("pong"))
	}
	rest := func() (files, goroutines int) {
		h.await(0, "frontend_attached")
		h.mustForget()
		return h.descriptors(), int(h.Scrape(t)["go_goroutines"])
	}
	const warm, sessions = 12, 1000
	for i := range warm {
		session(i)
	}
	files, goroutines := rest()
	for i := range sessions {
		session(i)
	}
	vm.Eventually(t, patience, "as many files and goroutines as before", func() bool {
		f, g := rest()
		return f <= files && g <= goroutines
	})
	if n := h.mappings(); n != 0 {
		t.Errorf("%d pieces of guests' memory are mapped", n)
	}
	h.await(warm+sessions, "sessions_ended_total")
	h.mustIdle()
}

// scope is a test within a test, for what shall not last as long as that.
type scope struct {
	testing.TB
	cleanups []func()
}

func (s *scope) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

func (s *scope) end() {
	for i := range s.cleanups {
		s.cleanups[len(s.cleanups)-1-i]()
	}
}

// ending is a way in which a session, or what its guest runs on, comes to an end.
type ending struct {
	name string
	end  func(*board)
	open bool // the connection goes on until the frontend leaves
}

var endings = []ending{
	{name: "close", end: func(b *board) { b.frontend.Close() }},
	{name: "half-close", end: func(b *board) { b.frontend.CloseWrite() }},
	{name: "garbage", end: func(b *board) { b.frontend.Write(make([]byte, 12)) }},
	{name: "RESET_DEVICE", end: func(b *board) { b.frontend.ResetDevice(); b.frontend.Barrier() }},
	{name: "ENABLE 0", open: true, end: func(b *board) {
		b.frontend.SetVringEnable(vhostusertest.TxIndex, false)
		b.frontend.Barrier()
	}},
	{name: "GET_VRING_BASE", open: true, end: func(b *board) { b.frontend.GetVringBase(vhostusertest.TxIndex) }},
	{name: "memory gone", open: true, end: func(b *board) {
		b.peer.Stop()
		b.frontend.SetMemTable(nil, nil, 0)
		b.frontend.Barrier()
	}},
}

// window is what a guest may send before anybody reads.
const window = 256 * kib

// publish makes a driver send a window's worth of bytes to a port of the host,
// without a kick, and returns them.
func publish(d *muxertest.Driver, tx *virtqueuetest.Ring, hostPort uint32) []byte {
	data := bytesOf(window)
	for at := 0; at < window; at += csm.MaxPayload {
		d.Add(d.Header(lastWordsPort, hostPort, csm.OpRW), data[at:at+csm.MaxPayload])
	}
	tx.Publish()
	return data
}

// lastWordsPort is the guest's port of the connection that publish sends on.
const lastWordsPort = 1024

// What a guest has published when its session ends arrives, though no kick told
// of it, and though the program reads when all is over.
func TestSimulatedEndOfSessionLosesNothing(t *testing.T) {
	t.Parallel()
	for _, e := range endings {
		for _, late := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/late=%v", e.name, late), func(t *testing.T) {
				t.Parallel()
				h := newHost(t)
				b, d := h.bare(t, muxertest.Options{})
				port, l := b.listen()
				d.Send(d.Header(lastWordsPort, port, csm.OpRequest), nil)
				d.Expect(csm.OpResponse)
				c := acceptFrom(t, l)
				got := background(func() []byte { return nil })
				read := func() []byte {
					data := make([]byte, window)
					n, _ := io.ReadFull(c, data)
					return data[:n]
				}
				if !late {
					got = background(read)
				}
				want := publish(d, b.memory.Tx(), port)
				e.end(b)
				if !late {
					if string(got()) != string(want) {
						t.Error("bytes are missing")
					}
				} else {
					h.await(window, "payload_bytes_total", `direction="tx"`)
					if string(read()) != string(want) {
						t.Error("bytes are missing")
					}
				}
				if e.open {
					b.frontend.Close()
				}
				mustEndAt(t, c)
				b.frontend.Close()
				h.mustForget()
				h.mustServe(t)
			})
		}
	}
}

// frontendProcess, in the environment, makes this program a frontend and a guest:
// the daemon's socket, and a port of the host.
const frontendProcess = "SIMULATED_FRONTEND"

// TestSimulatedFrontendProcess is the process that TestSimulatedKilledFrontend
// starts. Otherwise it does nothing.
func TestSimulatedFrontendProcess(t *testing.T) {
	socket, port, ok := strings.Cut(os.Getenv(frontendProcess), " ")
	if !ok {
		return
	}
	hostPort, err := strconv.ParseUint(port, 10, 32)
	if err != nil {
		t.Fatal(err)
	}
	h := &host{Daemon: &vm.Daemon{Socket: socket}, t: t}
	b, d := h.bare(t, muxertest.Options{})
	d.Send(d.Header(lastWordsPort, uint32(hostPort), csm.OpRequest), nil)
	d.Expect(csm.OpResponse)
	publish(d, b.memory.Tx(), uint32(hostPort))
	fmt.Println("published")
	io.Copy(io.Discard, os.Stdin) // until it is killed
}

// A VMM that is killed has closed nothing and said nothing.
func TestSimulatedKilledFrontend(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	port := newPort()
	l := h.Listen(t, port)
	for range 3 {
		kill := startFrontend(t, h, port)
		c := acceptFrom(t, l)
		kill()
		mustRead(t, c, bytesOf(window))
	}
	h.mustForget()
	h.mustServe(t)
}

// startFrontend starts a frontend as a process and waits until its guest has
// published its last words.
func startFrontend(t testing.TB, h *host, port uint32) (kill func()) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestSimulatedFrontendProcess$")
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d", frontendProcess, h.Socket, port))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	kill = func() {
		cmd.Process.Kill()
		cmd.Wait()
		stdin.Close()
	}
	watchdog := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	t.Cleanup(func() { watchdog.Stop(); kill() })
	for lines := bufio.NewScanner(out); lines.Scan(); {
		if lines.Text() == "published" {
			return kill
		}
		t.Log("frontend:", lines.Text())
	}
	t.Fatal("the frontend's process ended")
	return nil
}

// terminate sends SIGTERM and waits for the end. It returns how long that took.
func (h *host) terminate() time.Duration {
	h.t.Helper()
	fd, err := unix.PidfdOpen(h.pid, 0)
	if err != nil {
		h.t.Fatal("pidfd_open:", err)
	}
	defer unix.Close(fd)
	begin := time.Now()
	if err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); err != nil {
		h.t.Fatal("SIGTERM:", err)
	}
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for n := 0; n == 0; {
		if n, err = unix.Poll(fds, int(patience.Milliseconds())); n == 0 && err == nil {
			h.t.Fatal("the daemon does not end")
		}
	}
	for _, path := range []string{h.Socket, h.UDS} {
		if _, err := os.Lstat(path); err == nil {
			h.t.Errorf("%s is still there", path)
		}
	}
	return time.Since(begin)
}

// bound is what a test of the promised second allows on a busy machine.
const bound = 3 * time.Second

// SIGTERM: the guest gets RST, host programs get what is theirs if they take it
// within the second, then end of file. The exit code is seen by vm.StartDaemon.
func TestSimulatedTermination(t *testing.T) {
	t.Parallel()
	for _, reads := range []bool{true, false} {
		t.Run(fmt.Sprintf("reads=%v", reads), func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			b, d := h.bare(t, muxertest.Options{})
			port, l := b.listen()
			d.Send(d.Header(lastWordsPort, port, csm.OpRequest), nil)
			d.Expect(csm.OpResponse)
			c := acceptFrom(t, l)
			want := publish(d, b.memory.Tx(), port)
			got := background(func() []byte { return nil })
			if reads {
				got = background(func() []byte { p, _ := io.ReadAll(c); return p })
			}
			if took := h.terminate(); took > bound {
				t.Errorf("it took %v", took)
			}
			if reads && string(got()) != string(want) {
				t.Error("bytes are missing")
			}
			expectReset(t, d)
			b.frontend.WaitClosed()
			if !reads {
				rest, err := io.ReadAll(c)
				if err != nil || !strings.HasPrefix(string(want), string(rest)) {
					t.Errorf("%d bytes and %v", len(rest), err)
				}
			}
		})
	}
}

// expectReset waits for an RST; CREDIT_UPDATEs may come before it.
func expectReset(t testing.TB, d *muxertest.Driver) {
	t.Helper()
	for {
		p, ok := d.Recv(patience)
		if !ok {
			t.Fatal("no RST")
		}
		if p.Op == csm.OpRST {
			return
		}
	}
}

// It ends as soon with connections that never stop, by the dozen.
func TestSimulatedTerminationUnderLoad(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	b := h.boot(t)
	var ends []func() error
	for range 12 {
		g, c := b.dial()
		for _, pair := range [][2]io.ReadWriter{{g, c}, {c, g}} {
			ends = append(ends, background(func() error { _, err := io.Copy(pair[0], endless{}); return err }))
			ends = append(ends, background(func() error { _, err := io.Copy(io.Discard, pair[1]); return err }))
		}
	}
	vm.Eventually(t, patience, "bytes flow", func() bool { return h.metric("payload_bytes_total") > 64*mib })
	if took := h.terminate(); took > bound {
		t.Errorf("it took %v", took)
	}
	for _, end := range ends {
		end()
	}
	if _, err := net.Dial("unix", h.UDS); err == nil {
		t.Error("somebody listens")
	}
}

// endless is a source of bytes.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

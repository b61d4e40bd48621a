package tests

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/guest/script"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

// The simulated tests run the daemon as a process, with the messages of the real
// frontends, host programs on real sockets, and a guest that lives in the test:
// it boots in no time and can do what no kernel does.

// patience bounds each wait that is not expected to be long.
const patience = 20 * time.Second

// host is a daemon's process, seen from outside.
type host struct {
	*vm.Daemon
	t   testing.TB
	pid int
}

func newHost(t testing.TB, args ...string) *host {
	t.Helper()
	return newHostBy(t, `exec "$@"`, args...)
}

// newHostBy is newHost by a script as vm.StartDaemonBy takes it.
func newHostBy(t testing.TB, script string, args ...string) *host {
	t.Helper()
	d := vm.StartDaemonBy(t, script, args...)
	return &host{Daemon: d, t: t, pid: listenerOf(t, d.UDS)}
}

// listenerOf returns the process that listens at path.
func listenerOf(t testing.TB, path string) int {
	t.Helper()
	fd := rawDial(t, path)
	defer unix.Close(fd)
	peer, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		t.Fatal("SO_PEERCRED:", err)
	}
	return int(peer.Pid)
}

// rawDial returns a blocking socket that is connected to path.
func rawDial(t testing.TB, path string) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal("socket:", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatalf("connect to %s: %v", path, err)
	}
	return fd
}

// mustBeAlive wants the daemon's loop to answer.
func (h *host) mustBeAlive() {
	h.t.Helper()
	client := http.Client{Timeout: patience}
	resp, err := client.Get(strings.TrimSuffix(h.Metrics, "/metrics") + "/healthz")
	if err != nil {
		h.t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		h.t.Fatalf("/healthz: %s", resp.Status)
	}
}

// mustIdle wants the daemon to come to rest: a stretch of time in which it wants
// next to no processor. A loop that spins never has one.
func (h *host) mustIdle() {
	h.t.Helper()
	const stretch = 50 * time.Millisecond
	vm.Eventually(h.t, patience, "the daemon is idle", func() bool {
		before, _ := h.processor()
		time.Sleep(stretch) // what is measured, nothing is awaited
		after, runnable := h.processor()
		return after-before < stretch/10 && !runnable
	})
}

// processor returns for how long the daemon's threads have run, or have waited for
// a processor that was busy with others, and whether one of them does so now.
func (h *host) processor() (wanted time.Duration, runnable bool) {
	h.t.Helper()
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", h.pid))
	if err != nil || len(threads) == 0 {
		h.t.Fatalf("no thread of the daemon: %v", err)
	}
	for _, thread := range threads {
		times, err := os.ReadFile(thread + "/schedstat")
		state, err2 := os.ReadFile(thread + "/stat")
		if err != nil || err2 != nil {
			continue // the thread has ended
		}
		var ran, waited time.Duration
		if _, err := fmt.Sscan(string(times), &ran, &waited); err != nil {
			h.t.Fatalf("%s: %v", thread, err)
		}
		wanted += ran + waited
		runnable = runnable || strings.Contains(string(state), ") R ")
	}
	return wanted, runnable
}

// descriptors returns how many files the daemon has open.
func (h *host) descriptors() int {
	h.t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", h.pid))
	if err != nil {
		h.t.Fatal(err)
	}
	return len(entries)
}

// status returns how many bytes a field of the daemon's /proc/pid/status has.
func (h *host) status(field string) int {
	h.t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", h.pid))
	if err != nil {
		h.t.Fatal(err)
	}
	_, line, _ := strings.Cut(string(status), "\n"+field+":")
	var n int
	if _, err := fmt.Sscanf(line, "%d kB", &n); err != nil {
		h.t.Fatalf("%s in the status of the daemon: %v", field, err)
	}
	return n * kib
}

// mappings returns how many pieces of guests' memory the daemon has mapped.
func (h *host) mappings() int {
	h.t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", h.pid))
	if err != nil {
		h.t.Fatal(err)
	}
	return strings.Count(string(maps), "memfd:")
}

// metric adds up the daemon's series of this name and these labels.
func (h *host) metric(name string, labels ...string) int {
	h.t.Helper()
	return int(h.Scrape(h.t).Sum("vhost_user_vsock_"+name, labels...))
}

// await waits until a metric has a value.
func (h *host) await(want int, name string, labels ...string) {
	h.t.Helper()
	vm.Eventually(h.t, patience, fmt.Sprint(name, labels, " = ", want), func() bool { return h.metric(name, labels...) == want })
}

// mustForget waits until nothing is left of any connection.
func (h *host) mustForget() {
	h.t.Helper()
	vm.Eventually(h.t, patience, "every connection is forgotten", func() bool {
		s := h.Scrape(h.t)
		left := 0.0
		for _, gauge := range []string{"connections", "clients", "dials", "lingering_sockets", "buffered_bytes", "rxq_depth"} {
			left += s.Sum("vhost_user_vsock_" + gauge)
		}
		return left == 0
	})
}

// frontend connects to the daemon.
func (h *host) frontend(t testing.TB) *vhostusertest.Frontend {
	t.Helper()
	return vhostusertest.Dial(t, h.Socket)
}

// client connects a host program that has sent text.
func (h *host) client(t testing.TB, text string) *net.UnixConn {
	t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: h.UDS, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatalf("write %d bytes: %v", len(text), err)
	}
	return c
}

// newPeer is one of vhostusertest.Peers.
type newPeer func(*vhostusertest.Frontend, *vhostusertest.Guest) vhostusertest.Peer

// board is a virtual machine: a frontend's session and a guest's memory.
type board struct {
	t        testing.TB
	host     *host
	frontend *vhostusertest.Frontend
	memory   *vhostusertest.Guest
	peer     vhostusertest.Peer
	options  muxertest.Options
	relayed  bool   // the frontend has call descriptors of its own
	relays   func() // stops what passes interrupts on
	guest    *muxertest.Guest
}

// ram is the guest's memory, enough for rings full of the largest packets.
var ram = []virtqueuetest.Extent{{GuestAddr: 1 << 20, Size: 64 << 20}}

// plug makes a board whose frontend has begun a session. There is no driver yet.
func (h *host) plug(t testing.TB, peer newPeer, o vhostusertest.GuestOptions) *board {
	t.Helper()
	if o.Extents == nil {
		o.Extents = ram
	}
	b := &board{t: t, host: h, memory: vhostusertest.NewGuest(t, o), relays: func() {}}
	b.connect(peer)
	t.Cleanup(func() { b.relays() })
	return b
}

// connect begins a session with a frontend of this kind.
func (b *board) connect(peer newPeer) {
	b.t.Helper()
	b.frontend = b.host.frontend(b.t)
	b.peer = peer(b.frontend, b.memory)
	b.peer.Init()
}

// boot makes a board of QEMU's on which a guest runs.
func (h *host) boot(t testing.TB) *board {
	t.Helper()
	b := h.plug(t, vhostusertest.QEMU10, vhostusertest.GuestOptions{})
	b.start()
	return b
}

// start brings the guest up.
func (b *board) start() {
	b.t.Helper()
	b.peer.Start()
	b.guest = muxertest.NewGuest(b.driver())
}

// bare makes a board of QEMU's with a driver and no guest above it.
func (h *host) bare(t testing.TB, o muxertest.Options) (*board, *muxertest.Driver) {
	t.Helper()
	return h.bareWith(t, vhostusertest.GuestOptions{}, o)
}

// bareWith is bare with memory and rings of one's own.
func (h *host) bareWith(t testing.TB, g vhostusertest.GuestOptions, o muxertest.Options) (*board, *muxertest.Driver) {
	t.Helper()
	b := h.plug(t, vhostusertest.QEMU10, g)
	b.options = o
	b.peer.Start()
	return b, b.driver()
}

func (b *board) driver() *muxertest.Driver {
	b.t.Helper()
	b.relays()
	b.relays = b.relay()
	o := b.options
	if rings := b.memory.Rings; len(rings) > vhostusertest.EventIndex {
		o.Events = rings[vhostusertest.EventIndex]
	}
	return muxertest.NewDriver(b.t, b.memory.Memory, b.memory.Rx(), b.memory.Tx(), o)
}

// relay passes on the interrupts of frontends that have descriptors of their own
// for them, as UML has.
func (b *board) relay() (stop func()) {
	if !b.relayed {
		return func() {}
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	for i, ring := range b.memory.Rings {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
					if b.memory.WaitInterrupt(i, 5*time.Millisecond) {
						ring.Interrupt()
					}
				}
			}
		})
	}
	return sync.OnceFunc(func() { close(done); wg.Wait() })
}

// powerOff stops the guest's processors; what it has published stays.
func (b *board) powerOff() {
	b.guest.Stop()
	b.relays()
}

// reset is the guest's reboot up to the point where its driver is gone.
func (b *board) reset() {
	b.t.Helper()
	b.powerOff()
	b.peer.Reset()
}

// listen serves a port of the host.
func (b *board) listen() (port uint32, l *net.UnixListener) {
	b.t.Helper()
	port = newPort()
	return port, b.host.Listen(b.t, port)
}

// dial opens a connection from the guest.
func (b *board) dial() (guestConn, *net.UnixConn) {
	b.t.Helper()
	port, l := b.listen()
	defer l.Close()
	g, err := b.guest.Dial(port)
	if err != nil {
		b.t.Fatalf("the guest connects to port %d: %v", port, err)
	}
	return guestConn{g}, acceptFrom(b.t, l)
}

// call opens a connection from the host.
func (b *board) call() (*net.UnixConn, guestConn) {
	b.t.Helper()
	port := newPort()
	l := b.guest.Listen(port)
	defer l.Close()
	c, err := b.host.Dial(port)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c, mustAccept(b.t, l)
}

func mustAccept(t testing.TB, l *muxertest.Listener) guestConn {
	t.Helper()
	g, err := l.Accept()
	if err != nil {
		t.Fatalf("the guest accepts: %v", err)
	}
	return guestConn{g}
}

func acceptFrom(t testing.TB, l *net.UnixListener) *net.UnixConn {
	t.Helper()
	l.SetDeadline(time.Now().Add(patience))
	c, err := l.AcceptUnix()
	if err != nil {
		t.Fatalf("a host program accepts: %v", err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

// guestConn is a guest's connection with the methods of a socket.
type guestConn struct{ *muxertest.Conn }

func (c guestConn) CloseWrite() error { return c.Shutdown(csm.ShutdownSend) }
func (c guestConn) CloseRead() error  { return c.Shutdown(csm.ShutdownRcv) }

// converse runs both ends' steps; each must do all of its own, and see the bytes
// of the other.
func converse(t testing.TB, hostEnd, guestEnd script.Conn, hostSteps, guestSteps []script.Step) {
	t.Helper()
	guest := background(func() script.Report { return script.Run(guestEnd, guestSteps, nil) })
	h := script.Run(hostEnd, hostSteps, nil)
	g := guest()
	for end, r := range map[string]script.Report{"host": h, "guest": g} {
		if err := r.Err(); err != nil {
			t.Errorf("%s, after %d bytes sent and %d received: %v", end, r.Sent, r.Received, err)
		}
	}
	for way, r := range map[string][2]script.Report{"host to guest": {h, g}, "guest to host": {g, h}} {
		if r[0].Sent != r[1].Received || r[0].SentSum != r[1].ReceivedSum {
			t.Errorf("%s: %d bytes with sum %.8s sent, %d with %.8s received", way, r[0].Sent, r[0].SentSum, r[1].Received, r[1].ReceivedSum)
		}
	}
}

// both are the steps of an end that sends n bytes while it receives.
func both(n int64, seed byte) []script.Step {
	return []script.Step{{Do: script.Duplex, Bytes: n, Seed: seed}}
}

// mustWork moves n bytes each way, on a connection of either side.
func (b *board) mustWork(n int64) {
	b.t.Helper()
	g, h := b.dial()
	converse(b.t, h, g, both(n, 1), both(n, 2))
	h, g = b.call()
	converse(b.t, h, g, both(n, 3), both(n, 4))
}

// mustServe has the next frontend and its guest talk.
func (h *host) mustServe(t testing.TB) {
	t.Helper()
	b := h.boot(t)
	b.mustWork(64 * kib)
	b.powerOff()
	b.peer.Shutdown()
}

// bytesOf are n bytes in which no two places look alike.
func bytesOf(n int) []byte {
	p := make([]byte, n)
	x := uint32(2463534242)
	for i := range p {
		x ^= x << 13
		x ^= x >> 17
		x ^= x << 5
		p[i] = byte(x)
	}
	return p
}

// mustRead reads want and then end of file.
func mustRead(t testing.TB, c io.Reader, want []byte) {
	t.Helper()
	got, err := io.ReadAll(c)
	if err != nil {
		t.Errorf("after %d of %d bytes: %v", len(got), len(want), err)
	}
	if string(got) != string(want) {
		t.Errorf("%d bytes received, not the %d that were sent", len(got), len(want))
	}
}

// mustReadJust reads want, and leaves what follows.
func mustReadJust(t testing.TB, c io.Reader, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(c, got)
	if err != nil {
		t.Fatalf("after %d of %d bytes: %v", n, len(want), err)
	}
	if string(got) != string(want) {
		t.Fatalf("%d bytes received are not what was sent", n)
	}
}

// mustEndAt wants end of file at c, and no error before.
func mustEndAt(t testing.TB, c io.Reader) {
	t.Helper()
	mustRead(t, c, nil)
}

// mustWrite writes all of p.
func mustWrite(t testing.TB, c io.Writer, p []byte) {
	t.Helper()
	if n, err := c.Write(p); err != nil {
		t.Fatalf("after %d of %d bytes: %v", n, len(p), err)
	}
}

// mustBeReset wants the guest's connection to end by RST.
func mustBeReset(t testing.TB, c guestConn) {
	t.Helper()
	if err := c.WaitOver(); !errors.Is(err, muxertest.ErrReset) {
		t.Errorf("the guest's connection ended by %v, not by RST", err)
	}
}

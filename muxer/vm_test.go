package muxer_test

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/eventloop"
	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/stats"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

// patience bounds every wait of a test that expects success.
const patience = 20 * time.Second

// options describes a vm. The zero options are a guest like Linux under QEMU.
type options struct {
	muxer.Config // Loop, Log, Stats and UDSPath are filled in
	driver       muxertest.Options
	ringSize     int
	noEventIdx   bool
	noIndirect   bool
	noLoop       bool // the test calls Work itself
	seqpacket    bool // the driver acknowledged SEQPACKET
	paused       bool // the rings are not started
	events       bool // the frontend configures the event ring
	clock        eventloop.Clock
}

// vm is a muxer on a loop of its own, with a guest's rings and its host sockets
// in a directory.
type vm struct {
	t      testing.TB
	m      *muxer.Muxer
	loop   *eventloop.Loop
	stats  *muxer.Stats
	path   string
	mem    *virtqueuetest.Memory
	table  *guestmem.Table
	rx, tx *virtqueuetest.Ring
	events *virtqueuetest.Ring // or nil
	driver *muxertest.Driver

	queues [3]*virtqueue.Queue // what the device has, by index
	cid    atomic.Uint64       // what the driver reads from the config space
	ran    chan error
}

func newVM(t testing.TB, o options) *vm {
	t.Helper()
	if o.ringSize == 0 {
		o.ringSize = 128
	}
	dir, err := os.MkdirTemp("", "muxer") // t.TempDir is too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	v := &vm{t: t, stats: new(muxer.Stats), path: filepath.Join(dir, "v"), ran: make(chan error, 1)}
	if o.clock == nil {
		o.clock = eventloop.Monotonic()
	}
	if v.loop, err = eventloop.New(o.clock); err != nil {
		t.Fatal(err)
	}

	v.mem = virtqueuetest.NewMemory(t, virtqueuetest.Extent{GuestAddr: 1 << 20, Size: 64 << 20})
	v.table = v.mem.Table(t)
	ring := virtqueuetest.Options{Size: o.ringSize, EventIdx: !o.noEventIdx, Indirect: !o.noIndirect}
	v.rx = virtqueuetest.NewRing(t, v.mem, ring)
	v.tx = virtqueuetest.NewRing(t, v.mem, ring)

	if o.events {
		v.events = virtqueuetest.NewRing(t, v.mem, ring)
		o.driver.Events, o.driver.ReadCID = v.events, v.cid.Load
	}

	v.makeMuxer(o)
	t.Cleanup(v.close)
	if !o.paused {
		v.startAll()
	}
	if !o.noLoop {
		go func() { v.ran <- v.loop.Run() }()
	} else {
		v.ran <- nil
	}
	v.driver = muxertest.NewDriver(t, v.mem, v.rx, v.tx, o.driver)
	return v
}

func (v *vm) makeMuxer(o options) {
	v.t.Helper()
	c := o.Config
	c.Loop, c.Stats, c.UDSPath = v.loop, v.stats, v.path
	log := logrus.New()
	log.SetOutput(io.Discard)
	c.Log = log
	if c.GuestCID == 0 {
		c.GuestCID = 3
	}
	v.cid.Store(c.GuestCID)
	if c.MaxConnections == 0 {
		c.MaxConnections = 4096
	}
	if c.MaxBuffered == 0 {
		c.MaxBuffered = 256 << 20
	}
	if c.OwnSocket == nil {
		c.OwnSocket = func(string) bool { return false }
	}
	m, err := muxer.New(c)
	if err != nil {
		v.t.Fatal(err)
	}
	v.m = m
	v.loop.SetWorker(m)
	if err := m.Listen(listenFd(v.t, v.path, 4096)); err != nil {
		v.t.Fatal(err)
	}
	if err := m.ListenSeqpacket(listenTypeFd(v.t, unix.SOCK_SEQPACKET, v.path+"_seqpacket", 4096)); err != nil {
		v.t.Fatal(err)
	}
	m.Attach()
	if o.seqpacket {
		m.Negotiated(1<<0 | 1<<1)
	}
	for i, r := range v.rings() {
		if err := v.loop.Add(r.KickFd(), unix.EPOLLIN, &kick{m: m, index: i, fd: r.KickFd()}); err != nil {
			v.t.Fatal(err)
		}
	}
}

// kick hands the kicks of a ring to the muxer.
type kick struct {
	m     *muxer.Muxer
	index int
	fd    int
	count [8]byte
}

func (k *kick) HandleEvents(uint32) {
	unix.Read(k.fd, k.count[:])
	k.m.Kick(k.index)
}

func (v *vm) close() {
	v.loop.Stop()
	select {
	case err := <-v.ran:
		if err != nil {
			v.t.Error("loop:", err)
		}
	case <-time.After(patience):
		v.t.Error("the loop does not stop")
		return
	}
	v.m.Close()
	if err := v.loop.Close(); err != nil {
		v.t.Error("close loop:", err)
	}
}

// do runs f on the loop's goroutine and waits for it.
func (v *vm) do(f func()) {
	v.t.Helper()
	done := make(chan struct{})
	v.loop.Do(func() { f(); close(done) })
	select {
	case <-done:
	case <-time.After(patience):
		v.t.Fatal("the loop hangs")
	}
}

// start gives a ring to the muxer, on the loop's goroutine or before it runs.
// A ring that was stopped goes on where it was.
func (v *vm) start(index int) {
	v.t.Helper()
	r, base := v.rings()[index], uint32(0)
	if q := v.queues[index]; q != nil {
		base = q.Base()
	}
	q, err := virtqueue.New(v.table, r.Config(), base)
	if err != nil {
		v.t.Error("start ring:", err)
		return
	}
	q.Interrupt = r.Interrupt
	q.OnBroken = func(err error) { v.t.Errorf("ring %d: %v", index, err) }
	v.queues[index] = q
	v.m.StartQueue(index, q)
}

// rings returns the rings that the frontend configures, by index.
func (v *vm) rings() []*virtqueuetest.Ring {
	if v.events == nil {
		return []*virtqueuetest.Ring{v.rx, v.tx}
	}
	return []*virtqueuetest.Ring{v.rx, v.tx, v.events}
}

func (v *vm) startAll() {
	v.t.Helper()
	for index := range v.rings() {
		v.start(index)
	}
}

func (v *vm) stopAll() {
	for index := range v.rings() {
		v.m.StopQueue(index)
	}
}

// pause stops all rings as VHOST_USER_GET_VRING_BASE does; resume starts them again.
func (v *vm) pause() {
	v.t.Helper()
	v.do(v.stopAll)
}

func (v *vm) resume() {
	v.t.Helper()
	v.do(v.startAll)
}

// guest returns a guest on the vm's driver.
func (v *vm) guest() *muxertest.Guest {
	return muxertest.NewGuest(v.driver)
}

// eventually waits until the condition holds, as seen from the loop's goroutine.
func (v *vm) eventually(what string, holds func() bool) {
	v.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		ok := false
		v.do(func() { ok = holds() })
		if ok {
			return
		}
		if time.Now().After(deadline) {
			v.t.Fatalf("waited %v for: %s", patience, what)
		}
	}
}

// count waits for a counter.
func (v *vm) count(what string, c *stats.Counter, want uint64) {
	v.t.Helper()
	v.eventually(fmt.Sprintf("%s = %d, is %d", what, want, c.Load()), func() bool { return c.Load() == want })
}

// connections returns how many connections there are, tails and clients included.
func (v *vm) connections() (n int64) {
	for i := range v.stats.Connections {
		for j := range v.stats.Connections[i] {
			n += v.stats.Connections[i][j].Load()
		}
	}
	return n + v.stats.Tails.Load() + v.stats.Clients.Load()
}

// idle waits until nothing is left of any connection.
func (v *vm) idle() {
	v.t.Helper()
	v.eventually("no connections", func() bool { return v.connections() == 0 })
	if n := v.stats.Buffered.Load(); n != 0 {
		v.t.Errorf("%d bytes buffered without connections", n)
	}
}

// listenFd listens on path with a backlog.
func listenFd(t testing.TB, path string, backlog int) int {
	t.Helper()
	return listenTypeFd(t, unix.SOCK_STREAM, path, backlog)
}

// fullBacklog has a host program listen on a port, and returns its socket, whose
// backlog is full.
func (v *vm) fullBacklog(port uint32) (fd int) {
	v.t.Helper()
	path := v.portPath(port)
	fd = listenFd(v.t, path, 0)
	v.t.Cleanup(func() { unix.Close(fd) })
	first, err := net.Dial("unix", path) // a backlog of 0 takes one
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { first.Close() })
	return fd
}

func listenTypeFd(t testing.TB, typ int, path string, backlog int) int {
	t.Helper()
	os.Remove(path) // left by an earlier listener of the test
	fd, err := unix.Socket(unix.AF_UNIX, typ|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal("socket:", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal("bind:", err)
	}
	if err := unix.Listen(fd, backlog); err != nil {
		t.Fatal("listen:", err)
	}
	return fd
}

// portPath returns where a host program listens for a port.
func (v *vm) portPath(port uint32) string {
	return v.path + "_" + strconv.FormatUint(uint64(port), 10)
}

// program is a host program's listener.
type program struct {
	t testing.TB
	*net.UnixListener
}

// listen makes a host program listen on a port.
func (v *vm) listen(port uint32) *program {
	v.t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: v.portPath(port), Net: "unix"})
	if err != nil {
		v.t.Fatal(err)
	}
	v.t.Cleanup(func() { l.Close() })
	return &program{v.t, l}
}

// accept returns the program's next connection.
func (p *program) accept() *sock {
	p.t.Helper()
	p.SetDeadline(time.Now().Add(patience))
	c, err := p.AcceptUnix()
	if err != nil {
		p.t.Fatal("host program:", err)
	}
	return newSock(p.t, c)
}

// sock is a host program's end of a connection; its calls fail the test.
type sock struct {
	t testing.TB
	*net.UnixConn
}

func newSock(t testing.TB, c *net.UnixConn) *sock {
	t.Cleanup(func() { c.Close() })
	return &sock{t, c}
}

// Read and Write wait no longer than patience. It begins with the call: a socket
// may be older by the time a test comes to it.
func (s *sock) Read(p []byte) (int, error) {
	s.SetReadDeadline(time.Now().Add(patience))
	return s.UnixConn.Read(p)
}

func (s *sock) Write(p []byte) (int, error) {
	s.SetWriteDeadline(time.Now().Add(patience))
	return s.UnixConn.Write(p)
}

// connect connects a host program to the muxer and says nothing yet.
func (v *vm) connect() *sock {
	v.t.Helper()
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: v.path, Net: "unix"})
	if err != nil {
		v.t.Fatal("host program:", err)
	}
	return newSock(v.t, c)
}

// client connects a host program and writes a line, and what else is in it.
func (v *vm) client(line string) *sock {
	v.t.Helper()
	s := v.connect()
	s.send([]byte(line))
	return s
}

func (s *sock) send(p []byte) {
	s.t.Helper()
	if _, err := s.Write(p); err != nil {
		s.t.Fatal("host program writes:", err)
	}
}

// want reads exactly what is expected.
func (s *sock) want(p []byte) {
	s.t.Helper()
	got := make([]byte, len(p))
	n, err := io.ReadFull(s, got)
	if err != nil {
		s.t.Fatalf("host program reads %d bytes of %d: %v", n, len(p), err)
	}
	if !bytes.Equal(got, p) {
		s.t.Fatalf("host program reads other bytes than were sent, from byte %d on", mismatch(got, p))
	}
}

// wantEOF reads end of file: no byte, no error.
func (s *sock) wantEOF() {
	s.t.Helper()
	var b [64]byte
	if n, err := s.Read(b[:]); n != 0 || err != io.EOF {
		s.t.Fatalf("host program reads %q, %v; want end of file", b[:n], err)
	}
}

// wantOK reads an OK line byte by byte and returns its number.
func (s *sock) wantOK() int {
	s.t.Helper()
	var line []byte
	for b := [1]byte{}; !bytes.HasSuffix(line, []byte("\n")); line = append(line, b[0]) {
		if _, err := s.Read(b[:]); err != nil {
			s.t.Fatalf("host program waits for OK, has %q: %v", line, err)
		}
	}
	number, ok := strings.CutPrefix(strings.TrimSuffix(string(line), "\n"), "OK ")
	port, err := strconv.Atoi(number)
	if !ok || err != nil {
		s.t.Fatalf("host program reads %q, want OK", line)
	}
	return port
}

// mismatch returns the index of the first byte that differs.
func mismatch(a, b []byte) int {
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return i
		}
	}
	return min(len(a), len(b))
}

// pattern returns n bytes that do not repeat soon.
func pattern(n int) []byte {
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

// wantGuest reads exactly p at the guest's end.
func wantGuest(t testing.TB, c *muxertest.Conn, p []byte) {
	t.Helper()
	got := make([]byte, len(p))
	n, err := io.ReadFull(c, got)
	if err != nil {
		t.Fatalf("guest reads %d bytes of %d: %v", n, len(p), err)
	}
	if !bytes.Equal(got, p) {
		t.Fatalf("guest reads other bytes than were sent, from byte %d on", mismatch(got, p))
	}
}

func wantGuestEOF(t testing.TB, c *muxertest.Conn) {
	t.Helper()
	var b [64]byte
	if n, err := c.Read(b[:]); n != 0 || err != io.EOF {
		t.Fatalf("guest reads %q, %v; want end of file", b[:n], err)
	}
}

func guestWrites(t testing.TB, c *muxertest.Conn, p []byte) {
	t.Helper()
	if n, err := c.Write(p); err != nil {
		t.Fatalf("guest writes %d of %d bytes: %v", n, len(p), err)
	}
}

// guestFills writes until bytes for the host program wait in memory, and returns
// them.
func (v *vm) guestFills(c *muxertest.Conn) (data []byte) {
	v.t.Helper()
	for taken := v.stats.TxBytes.Load(); v.stats.Buffered.Load() == 0; {
		data = pattern(len(data) + csm.MaxPayload)
		guestWrites(v.t, c, data[len(data)-csm.MaxPayload:])
		// Else the guest runs ahead, until it waits for credit.
		v.count("bytes taken", &v.stats.TxBytes, taken+uint64(len(data)))
	}
	return data
}

// dial opens a connection from the guest and returns both ends.
func (v *vm) dial(g *muxertest.Guest, p *program, port uint32) (*muxertest.Conn, *sock) {
	v.t.Helper()
	c, err := g.Dial(port)
	if err != nil {
		v.t.Fatal("guest connects:", err)
	}
	return c, p.accept()
}

// call opens a connection from the host and returns both ends.
func (v *vm) call(l *muxertest.Listener, port uint32) (*muxertest.Conn, *sock) {
	v.t.Helper()
	s := v.client(fmt.Sprintf("CONNECT %d\n", port))
	s.wantOK()
	c, err := l.Accept()
	if err != nil {
		v.t.Fatal("guest accepts:", err)
	}
	return c, s
}

// open opens a guest-initiated connection by raw packets and returns the host
// program's end.
func (v *vm) open(p *program, guestPort, hostPort uint32) *sock {
	v.t.Helper()
	v.driver.Send(v.driver.Header(guestPort, hostPort, csm.OpRequest), nil)
	v.driver.ExpectFor(guestPort, hostPort, csm.OpResponse)
	return p.accept()
}

// readAll returns everything that s reads up to end of file.
func (s *sock) readAll() []byte {
	s.t.Helper()
	p, err := io.ReadAll(s)
	if err != nil {
		s.t.Fatalf("host program reads %d bytes and then: %v", len(p), err)
	}
	return p
}

package muxer_test

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
)

func TestConnectionLimit(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{Config: muxer.Config{MaxConnections: 3}})
	p, g := v.listen(52), v.guest()
	l := g.Listen(52)
	c, s := v.dial(g, p, 52)
	v.dial(g, p, 52)
	v.call(l, 52)
	if _, err := g.Dial(52); err != muxertest.ErrReset {
		t.Fatalf("the guest's fourth connection: %v", err)
	}
	client := v.client("CONNECT 52\npayload")
	client.wantEOF()
	v.count("limit", &v.stats.Handshakes[muxer.HandshakeLimit], 1)
	v.count("limit", &v.stats.Resets[muxer.ResetLimit], 1)

	c.Close()
	s.wantEOF()
	c.WaitOver()
	v.eventually("room", func() bool { return v.connections() == 2 })
	v.call(l, 52)
}

// Beyond the limit some clients are heard out; the others wait in the backlog
// for their turn.
func TestListenerPausesAndResumes(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{Config: muxer.Config{MaxConnections: 2}})
	l := v.guest().Listen(52)
	_, s1 := v.call(l, 52)
	_, s2 := v.call(l, 52)
	var silent []*sock
	for range 64 {
		silent = append(silent, v.connect())
	}
	v.eventually("64 clients are heard out", func() bool { return v.stats.Clients.Load() == 64 })
	late := v.client("CONNECT 52\n")
	v.do(func() {})
	v.do(func() {})
	if n := v.stats.Clients.Load(); n != 64 {
		t.Fatalf("%d clients are heard out", n)
	}
	silent[0].Close()
	late.wantEOF() // it was its turn to be refused
	s1.Close()
	s2.Close()
	for _, s := range silent {
		s.Close()
	}
	v.idle()
	v.call(l, 52)
}

// A full backlog gives no event. REQUESTs wait in line for it, oldest first, and
// nobody else is held up. Not parallel: all of it has to happen within 1.5 s.
func TestFullBacklog(t *testing.T) {
	v := newVM(t, options{})
	fd := listenFd(t, v.portPath(52), 1)
	defer unix.Close(fd)
	d := v.driver
	for port := range uint32(2) { // a backlog of 1 takes two
		d.Send(d.Header(1000+port, 52, csm.OpRequest), nil)
		d.ExpectFor(1000+port, 52, csm.OpResponse)
	}
	const n = 8
	for port := range uint32(n) {
		d.Send(d.Header(2000+port, 52, csm.OpRequest), nil)
	}
	v.eventually("all wait", func() bool { return v.stats.Dials.Load() == n })
	v.open(v.listen(53), 3000, 53)
	d.Send(d.Header(2003, 52, csm.OpRST), nil) // one gives up
	for port := range uint32(n) {
		if port == 3 {
			continue
		}
		acceptFd(t, fd)
		d.ExpectFor(2000+port, 52, csm.OpResponse)
	}
	v.eventually("nobody waits", func() bool { return v.stats.Dials.Load() == 0 })
}

// acceptFd accepts from a raw listener and closes at the test's end.
func acceptFd(t *testing.T, fd int) {
	t.Helper()
	unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(patience.Milliseconds()))
	c, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
	if err != nil {
		t.Fatal("accept:", err)
	}
	t.Cleanup(func() { unix.Close(c) })
}

func TestFullBacklogTimesOut(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	fd := listenFd(t, v.portPath(52), 0)
	defer unix.Close(fd)
	d := v.driver
	d.Send(d.Header(1000, 52, csm.OpRequest), nil)
	d.ExpectFor(1000, 52, csm.OpResponse)
	begin := time.Now()
	for port := range uint32(3) {
		d.Send(d.Header(2000+port, 52, csm.OpRequest), nil)
	}
	for range 3 {
		d.Expect(csm.OpRST)
	}
	if took := time.Since(begin); took < 1500*time.Millisecond || took > 3*time.Second {
		t.Errorf("RST after %v, want 1.5 s", took)
	}
	v.count("backlog", &v.stats.Resets[muxer.ResetBacklog], 3)

	d.Send(d.Header(3000, 52, csm.OpRequest), nil) // the line is gone and forms anew
	v.eventually("it waits", func() bool { return v.stats.Dials.Load() > 0 })
	acceptFd(t, fd)
	d.ExpectFor(3000, 52, csm.OpResponse)
	v.eventually("nobody waits", func() bool { return v.stats.Dials.Load() == 0 })
}

// A program that closes its listener with REQUESTs in line: they are refused.
func TestListenerGoesAwayWithAFullBacklog(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	fd := listenFd(t, v.portPath(52), 0)
	d := v.driver
	d.Send(d.Header(1000, 52, csm.OpRequest), nil)
	d.ExpectFor(1000, 52, csm.OpResponse)
	for port := range uint32(3) {
		d.Send(d.Header(2000+port, 52, csm.OpRequest), nil)
	}
	v.eventually("three wait", func() bool { return v.stats.Dials.Load() == 3 })
	unix.Close(fd)
	resets := 0
	for resets < 3 {
		q, ok := d.Recv(patience)
		if !ok {
			t.Fatalf("%d RSTs", resets)
		}
		if q.Op == csm.OpRST && q.DstPort >= 2000 {
			resets++
		}
	}
	v.count("refused", &v.stats.Resets[muxer.ResetRefused], 3)
}

func TestForbiddenPathIsReset(t *testing.T) {
	t.Parallel()
	if unix.Geteuid() == 0 {
		t.Log("as root, EACCES is not to be had; a path that is no socket is")
	}
	v := newVM(t, options{})
	if err := unix.Mkdir(v.portPath(52), 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: v.portPath(53), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	g := v.guest()
	for _, port := range []uint32{52, 53} {
		if _, err := g.Dial(port); err != muxertest.ErrReset {
			t.Errorf("port %d: %v", port, err)
		}
	}
	v.count("refused", &v.stats.Resets[muxer.ResetRefused], 2)
}

// A guest that posts no receive buffers cannot make us remember RSTs without end:
// the tx ring waits, and goes on when they have left. Not one is lost.
func TestReplyStall(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{driver: muxertest.Options{Buffers: -1}})
	d := v.driver
	sent := 0
	for full := false; !full; full = stalled(v) && d.InFlight() == 128 {
		for d.TryAdd(d.Header(uint32(sent), 52, csm.OpRW), nil) {
			d.Kick()
			sent++
		}
	}
	if sent != 256+128 {
		t.Fatalf("%d packets were taken while no reply could leave", sent-128)
	}
	seen := make(map[uint32]int)
	for got := 0; got < sent; got++ {
		if d.Posted() == 0 {
			d.PostBuffers(64)
		}
		seen[d.Expect(csm.OpRST).DstPort]++
	}
	for port := range sent {
		if seen[uint32(port)] != 1 {
			t.Fatalf("port %d: %d RSTs", port, seen[uint32(port)])
		}
	}
	if !d.WaitTx(patience) {
		t.Fatal("the tx ring stands still")
	}
}

// stalled reports whether the tx ring waits for replies, after a look by the loop.
func stalled(v *vm) bool {
	ok := false
	v.do(func() { ok = v.stats.ReplyStalls.Load() > 0 })
	return ok
}

// Other connections go on while the replies of one wait, as long as there is
// storage: tx is served while rx is full (virtio v1.4 §5.10.6.4).
func TestTxIsServedWhileRxIsFull(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{driver: muxertest.Options{Buffers: -1}})
	p, d := v.listen(52), v.driver
	d.PostBuffers(1)
	s := v.open(p, 1000, 52)
	for range 100 {
		d.Send(d.Header(9999, 52, csm.OpRW), nil)
	}
	d.Send(d.Header(1000, 52, csm.OpRW), []byte("through"))
	s.want([]byte("through"))
	v.do(func() {}) // the turn is over
	if n := v.stats.RxRingStalls.Load(); n == 0 {
		t.Error("no stall was counted")
	}
}

// Turn by turn: among the first packets there is one of every connection.
func TestEveryConnectionGetsItsTurn(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{ringSize: 1024, driver: muxertest.Options{Buffers: -1}})
	p, d := v.listen(52), v.driver
	const n = 300
	d.PostBuffers(n)
	var socks []*sock
	for i := range uint32(n) {
		socks = append(socks, v.open(p, i, 52))
	}
	for i, s := range socks {
		if i < 3 { // some have much more to say than others
			go s.Write(pattern(1 << 20))
		} else {
			s.send([]byte("short"))
		}
	}
	v.eventually("all is ready", func() bool { return v.stats.RxQueueDepth.Load() >= n-3 })
	d.PostBuffers(600)
	seen := make(map[uint32]bool)
	for range 600 {
		q, ok := d.Recv(time.Second)
		if !ok {
			break
		}
		seen[q.DstPort] = true
	}
	if len(seen) != n {
		t.Errorf("%d connections of %d had a turn among 600 packets", len(seen), n)
	}
}

// Connections that come and go while the guest posts no buffers overflow the
// queue of those that have something for it; nothing that is alive is forgotten.
func TestReadyQueueOverflows(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{Config: muxer.Config{MaxConnections: 4}, driver: muxertest.Options{Buffers: -1}})
	p, d := v.listen(52), v.driver
	for i := range uint32(1100) {
		d.Send(d.Header(i, 52, csm.OpRequest), nil)
		p.accept().UnixConn.Close()
		d.Send(d.Header(i, 52, csm.OpRST), nil)
	}
	v.idle()
	for i := range uint32(3) {
		d.Send(d.Header(5000+i, 52, csm.OpRequest), nil)
	}
	d.PostBuffers(20)
	seen := make(map[uint32]bool)
	for range 3 {
		seen[d.Expect(csm.OpResponse).DstPort] = true
	}
	if len(seen) != 3 {
		t.Fatalf("RESPONSEs for %v", seen)
	}
	if v.stats.RxResyncs.Load() == 0 {
		t.Error("the queue did not overflow: this test tests nothing")
	}
}

// A thousand connections in both directions, opened and closed in every order,
// leave nothing behind.
func TestManyConnections(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{ringSize: 256})
	p, g := v.listen(52), v.guest()
	l := g.Listen(52)
	const n = 500
	for round := range 2 {
		var conns []*muxertest.Conn
		var socks []*sock
		for i := range n {
			c, s := v.dial(g, p, 52)
			conns, socks = append(conns, c), append(socks, s)
			c, s = v.call(l, 52)
			conns, socks = append(conns, c), append(socks, s)
			_ = i
		}
		var all sync.WaitGroup
		for i := range conns {
			all.Go(func() {
				data := []byte(fmt.Sprintf("connection %d of round %d", i, round))
				guestWrites(t, conns[i], data)
				socks[i].want(data)
				socks[i].send(data)
				wantGuest(t, conns[i], data)
				if i%2 == 0 {
					conns[i].Close()
					socks[i].wantEOF()
					socks[i].Close()
				} else {
					socks[i].Close()
					wantGuestEOF(t, conns[i])
				}
				if err := conns[i].WaitOver(); errors.Is(err, muxertest.ErrTimeout) {
					t.Error(err)
				}
			})
		}
		all.Wait()
		v.idle()
		if n := g.Conns(); n != 0 {
			t.Fatalf("the guest holds %d connections", n)
		}
	}
}

func TestShutdown(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	p, g := v.listen(52), v.guest()
	c, s := v.dial(g, p, 52)
	line := v.client("CONN")
	buffered, slow := v.dial(g, p, 52)
	data := v.guestFills(buffered)
	v.eventually("every byte was taken", func() bool { return v.stats.TxBytes.Load() == uint64(len(data)) })
	done := make(chan struct{})
	v.do(func() { v.m.Shutdown(func() { close(done) }) })
	for _, c := range []*muxertest.Conn{c, buffered} {
		if err := c.WaitOver(); err != muxertest.ErrReset {
			t.Fatal(err)
		}
	}
	s.wantEOF()
	line.wantEOF()
	select {
	case <-done:
		t.Fatal("done before the last byte was written")
	default:
	}
	slow.want(data)
	slow.wantEOF()
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("not done")
	}
	if _, err := g.Dial(52); err != muxertest.ErrReset {
		t.Errorf("a REQUEST after the end: %v", err)
	}
}

// The guest is owed an RST for every connection, so the end waits for buffers; how
// long is its caller's to bound.
func TestShutdownWaitsForReceiveBuffers(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{driver: muxertest.Options{Buffers: -1}})
	v.driver.PostBuffers(1)
	s := v.open(v.listen(52), 1000, 52)
	done := make(chan struct{})
	v.do(func() { v.m.Shutdown(func() { close(done) }) })
	s.wantEOF()
	v.do(func() {})
	select {
	case <-done:
		t.Fatal("done before the guest has its RST")
	default:
	}
	v.driver.PostBuffers(1)
	v.driver.Expect(csm.OpRST)
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("not done")
	}
}

// The end waits for the guest to take the RSTs of more connections than it has
// receive buffers.
func TestShutdownResetsEveryConnection(t *testing.T) {
	t.Parallel()
	const connections = 300
	v := newVM(t, options{})
	p, d := v.listen(52), v.driver
	for i := range uint32(connections) {
		v.open(p, 1000+i, 52)
	}
	done := make(chan struct{})
	v.do(func() { v.m.Shutdown(func() { close(done) }) })
	for range connections {
		d.Expect(csm.OpRST)
	}
	select {
	case <-done:
	case <-time.After(patience):
		t.Fatal("not done")
	}
}

// A guest that withdraws its REQUESTs leaves nothing behind in a full backlog.
func TestWithdrawnRequestsLeaveNothing(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	defer unix.Close(listenFd(t, v.portPath(52), 0))
	d := v.driver
	d.Send(d.Header(1000, 52, csm.OpRequest), nil)
	d.ExpectFor(1000, 52, csm.OpResponse)
	d.Send(d.Header(1001, 52, csm.OpRequest), nil) // has to wait
	for range 2000 {
		d.Send(d.Header(9, 52, csm.OpRequest), nil)
		d.Send(d.Header(9, 52, csm.OpRST), nil)
	}
	if !d.WaitTx(patience) {
		t.Fatal("the tx ring stands still")
	}
	if n := v.stats.Dials.Load(); n > 2 {
		t.Errorf("%d REQUESTs wait, of which the guest wants 1", n)
	}
}

// RSTs are owed to nobody in a storm of them, and a storm holds nobody up.
func TestRSTStorm(t *testing.T) {
	t.Parallel()
	v := newVM(t, options{})
	p, d := v.listen(52), v.driver
	s := v.open(p, 1000, 52)
	for i := range uint32(50000) {
		d.Add(d.Header(2000+i, 52, csm.OpRST), nil)
	}
	d.Kick()
	d.Send(d.Header(1000, 52, csm.OpRW), []byte("alive"))
	s.want([]byte("alive"))
	if got := d.Barrier(); len(got) != 0 {
		t.Fatalf("answered by %v", got)
	}
}

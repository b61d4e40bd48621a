package main

import (
	"bytes"
	"io"
	"net"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

// testGuest is a guest with one connection to the host.
type testGuest struct {
	*vhostusertest.Guest
	frontend *vhostusertest.Frontend
	cid      uint64
	port     uint32                           // of the host
	buffers  map[uint16]virtqueuetest.Segment // receive buffers by head
	taken    uint32                           // fwd_cnt of the latest packet
}

// startGuest boots a guest on a frontend's connection. It will talk to port of
// the host.
func startGuest(t *testing.T, frontend *vhostusertest.Frontend, port uint32) *testGuest {
	t.Helper()
	g := &testGuest{
		Guest:    vhostusertest.NewGuest(t, vhostusertest.GuestOptions{}),
		frontend: frontend,
		cid:      3,
		port:     port,
		buffers:  make(map[uint16]virtqueuetest.Segment),
	}
	peer := vhostusertest.QEMU10(frontend, g.Guest)
	peer.Init()
	peer.Start()
	for range 32 {
		buffer := g.Memory.In(4096)
		g.buffers[g.Rx().Add(buffer)] = buffer
	}
	g.Rx().Kick()
	return g
}

func (g *testGuest) send(op csm.Op, payload []byte) {
	g.sendPacket(csm.Header{
		SrcCID: g.cid, DstCID: csm.HostCID, SrcPort: 1000, DstPort: g.port,
		Len: uint32(len(payload)), Type: csm.TypeStream, Op: op, BufAlloc: 256 << 10,
	}, payload)
}

func (g *testGuest) sendPacket(h csm.Header, payload []byte) {
	var wire [csm.HeaderSize]byte
	h.Encode(&wire)
	g.Tx().Add(g.Memory.Out(append(wire[:], payload...)))
	g.Tx().Kick()
}

// expect waits for a packet; CREDIT_UPDATEs may come before it.
func (g *testGuest) expect(t *testing.T, op csm.Op) {
	t.Helper()
	waitFor(t, func() bool {
		h, ok := g.receive()
		if !ok {
			return false
		}
		if h.Op != op && h.Op != csm.OpCreditUpdate {
			t.Fatalf("packet %v, want %v", h.Op, op)
		}
		return h.Op == op
	})
}

// expectApart wants the guest refused where port, the path at which its host program
// would listen, leads to one of these sockets.
func (g *testGuest) expectApart(t *testing.T, port string, sockets ...string) {
	t.Helper()
	for _, path := range sockets {
		if err := os.Symlink(path, port); err != nil {
			t.Fatal(err)
		}
		g.send(csm.OpRequest, nil)
		g.expect(t, csm.OpRST)
		if err := os.Remove(port); err != nil {
			t.Fatal(err)
		}
	}
}

// receive returns the next packet, if there is one.
func (g *testGuest) receive() (h csm.Header, ok bool) {
	used, ok := g.Rx().Used()
	if !ok {
		return h, false
	}
	h.Decode((*[csm.HeaderSize]byte)(g.Memory.Bytes(g.buffers[uint16(used.ID)].Addr, csm.HeaderSize)))
	g.taken = h.FwdCnt
	return h, true
}

// flood sends bytes, on a connection that the program has just accepted and does not
// read, until some have to wait for it. It returns them.
func (g *testGuest) flood(t *testing.T) (sent []byte) {
	t.Helper()
	returned := func() bool { _, ok := g.Tx().Used(); return ok }
	waitFor(t, returned) // REQUEST
	for i := byte(0); uint32(len(sent))-g.taken < 192<<10; i++ {
		payload := bytes.Repeat([]byte{i}, 64<<10)
		g.send(csm.OpRW, payload)
		sent = append(sent, payload...)
		waitFor(t, returned)
		for ok := true; ok; {
			_, ok = g.receive()
		}
	}
	return sent
}

// startFlood starts the program with a guest whose host program has more bytes
// to read than its socket holds. It returns these bytes.
func startFlood(t *testing.T, start func() (*process, *vhostusertest.Frontend)) (p *process, g *testGuest, program net.Conn, sent []byte) {
	t.Helper()
	const port = 1234
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: "u_" + strconv.Itoa(port), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p, frontend := start()
	g = startGuest(t, frontend, port)
	g.send(csm.OpRequest, nil)
	g.expect(t, csm.OpResponse)
	l.SetDeadline(time.Now().Add(testLimit))
	if program, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	program.SetDeadline(time.Now().Add(testLimit))
	return p, g, program, g.flood(t)
}

func onSocketFile(t *testing.T) func() (*process, *vhostusertest.Frontend) {
	return func() (*process, *vhostusertest.Frontend) {
		p := startDaemon(t, nil)
		return p, vhostusertest.Dial(t, "s")
	}
}

func expectRead(t *testing.T, program net.Conn, want []byte) {
	t.Helper()
	if got, err := io.ReadAll(program); err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %d bytes, error %v; want %d bytes", len(got), err, len(want))
	}
}

func TestProcessWritesWhatIsLeftBeforeItEnds(t *testing.T) {
	inTempDir(t)
	p, g, program, sent := startFlood(t, onSocketFile(t))
	if err := p.cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	g.expect(t, csm.OpRST)
	expectRead(t, program, sent)
	p.expectExit(t, exitOK, stopLimit)
}

func TestProcessWaitsOnlySoLongForAProgramThatDoesNotRead(t *testing.T) {
	inTempDir(t)
	p, g, _, _ := startFlood(t, onSocketFile(t))
	begin := time.Now()
	if err := p.cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	g.expect(t, csm.OpRST)
	expectFiles(t) // nobody new is led here
	p.expectExit(t, exitOK, stopLimit)
	if took := time.Since(begin); took < 700*time.Millisecond {
		t.Errorf("it gave up after %v", took)
	}
}

func TestProcessEndsAtOnceByASecondSignal(t *testing.T) {
	inTempDir(t)
	p, g, _, _ := startFlood(t, onSocketFile(t))
	if err := p.cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	g.expect(t, csm.OpRST)
	if err := p.cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	p.expectExit(t, exitError, tailLimit/2)
}

func TestProcessKeepsWhatAnInheritedSessionLeft(t *testing.T) {
	inTempDir(t)
	p, g, program, sent := startFlood(t, func() (*process, *vhostusertest.Frontend) {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		frontend := vhostusertest.New(t, fds[0])
		return startInherited(t, fds[1]), frontend
	})
	g.frontend.Close()
	select {
	case <-p.exited:
		t.Fatal("it ended before its bytes were read")
	case <-time.After(tailLimit + 200*time.Millisecond): // no limit without a signal
	}
	expectRead(t, program, sent)
	p.expectExit(t, exitOK, testLimit)
}

// A guest whose host program's path leads to one of the daemon's own sockets
// could speak vhost-user to it, or reach another guest.
func TestProcessKeepsGuestsFromItsOwnSockets(t *testing.T) {
	for name, start := range map[string]func(t *testing.T) (frontend string, p *process){
		"socket": func(t *testing.T) (string, *process) { return "s", startDaemon(t, nil) },
		"fd": func(t *testing.T) (string, *process) {
			l := listenInherited(t, "inherited")
			defer l.Close()
			p := startProcess(t, inheritFile(l), "--fd", "3", "--uds-path", "u")
			p.await(t, "u")
			return "inherited", p
		},
	} {
		t.Run(name, func(t *testing.T) {
			inTempDir(t)
			frontend, p := start(t)
			g := startGuest(t, vhostusertest.Dial(t, frontend), 22)
			for _, path := range []string{frontend, "u"} {
				if err := os.Symlink(path, "u_22"); err != nil {
					t.Fatal(err)
				}
				g.send(csm.OpRequest, nil)
				g.expect(t, csm.OpRST)
				if err := os.Remove("u_22"); err != nil {
					t.Fatal(err)
				}
			}
			p.stop(t, unix.SIGTERM)
		})
	}
}

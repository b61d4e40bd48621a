package muxer_test

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
)

// bulk is one guest-initiated connection whose both ends move bytes without
// allocating anything, so that what is allocated is the muxer's.
type bulk struct {
	*vm
	program int // the host program's socket, blocking
	rw      csm.Header
	update  csm.Header
	packet  []byte
	buf     []byte
}

// newBulk opens a connection that carries packets of size bytes to the host.
func newBulk(t testing.TB, size int) *bulk { return newBulkOf(t, size, muxer.Config{}) }

func newBulkOf(t testing.TB, size int, config muxer.Config) *bulk {
	pieces := map[int][]int{csm.HeaderSize: {csm.HeaderSize}, csm.HeaderSize + size: muxertest.LinuxTx(csm.HeaderSize + size)}
	framing := muxertest.Framing{Tx: func(size int) []int { return pieces[size] }}
	b := &bulk{
		vm:     newVM(t, options{Config: config, ringSize: 256, driver: muxertest.Options{Framing: framing}}),
		packet: pattern(size),
		buf:    make([]byte, 256<<10),
	}
	fd := listenFd(t, b.portPath(52), 1)
	defer unix.Close(fd)
	b.driver.Send(b.driver.Header(1000, 52, csm.OpRequest), nil)
	b.driver.Expect(csm.OpResponse)
	program, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
	if err != nil {
		t.Fatal("accept:", err)
	}
	t.Cleanup(func() { unix.Close(program) })
	patient := unix.NsecToTimeval(patience.Nanoseconds())
	unix.SetsockoptTimeval(program, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patient)
	unix.SetsockoptTimeval(program, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patient)
	b.program = program
	b.rw = b.driver.Header(1000, 52, csm.OpRW)
	b.update = b.driver.Header(1000, 52, csm.OpCreditUpdate)
	return b
}

// toHost sends packets and reads them at the host program.
func (b *bulk) toHost(packets int) {
	for range packets {
		b.driver.Add(b.rw, b.packet)
	}
	b.driver.Kick()
	for left := packets * len(b.packet); left > 0; {
		n, err := unix.Read(b.program, b.buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			b.t.Fatalf("host program reads %d, %v with %d bytes to come", n, err, left)
		}
		left -= n
	}
	for ok := true; ok; { // credit
		_, ok = b.driver.TryRecv()
	}
}

// toGuest writes bytes at the host program and receives them in the guest, which
// acknowledges them all.
func (b *bulk) toGuest(n int) {
	for left := n; left > 0; {
		k, err := unix.Write(b.program, b.buf[:left])
		if err != nil && err != unix.EINTR {
			b.t.Fatal("host program writes:", err)
		}
		left -= max(k, 0)
	}
	for left := n; left > 0; {
		p, ok := b.driver.Recv(patience)
		if !ok {
			b.t.Fatalf("%d bytes did not come", left)
		}
		if p.Op == csm.OpRW {
			left -= len(p.Payload)
		}
	}
	b.update.FwdCnt += uint32(n)
	b.driver.Send(b.update, nil)
}

// Nothing is allocated on the data path.
func TestDataPathAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for name, move := range map[string]func(b *bulk){
		"to the host":             func(b *bulk) { b.toHost(3) },
		"to the guest":            func(b *bulk) { b.toGuest(128 << 10) },
		"to the guest, in pieces": func(b *bulk) { b.toGuest(100); b.toGuest(5000) },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBulk(t, csm.MaxPayload)
			for range 20 {
				move(b)
			}
			if n := testing.AllocsPerRun(100, func() { move(b) }); n != 0 {
				t.Errorf("%v allocations", n)
			}
		})
	}
}

// With a program that reads late, bytes are copied into memory that is used again.
func TestBufferingAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	// With so little memory no host socket is made to hold more.
	b := newBulkOf(t, csm.MaxPayload, muxer.Config{MaxBuffered: 384 << 10})
	move := func() {
		for range 4 {
			b.driver.Add(b.rw, b.packet)
		}
		b.driver.Kick()
		if !b.driver.WaitTx(patience) { // before the program reads
			t.Fatal("the tx ring stands still")
		}
		b.toHost(0)
		for left := 4 * len(b.packet); left > 0; {
			n, err := unix.Read(b.program, b.buf)
			if err != nil && err != unix.EINTR {
				t.Fatal(err)
			}
			left -= max(n, 0)
		}
	}
	for range 20 {
		move()
	}
	if n := testing.AllocsPerRun(50, move); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if b.stats.HostStalls.Load() < 10 {
		t.Error("nothing was buffered: this test tests nothing")
	}
}

func BenchmarkGuestToHost(b *testing.B) {
	for _, size := range []int{64, 4 << 10, 64 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			l := newBulk(b, size)
			packets := min(128, 192<<10/size)
			notified := l.queues[1].Stats.Notified.Load()
			b.SetBytes(int64(packets * size))
			b.ReportAllocs()
			moved := 0
			for b.Loop() {
				l.toHost(packets)
				moved += packets
			}
			b.ReportMetric(float64(l.queues[1].Stats.Notified.Load()-notified)/float64(moved), "interrupts/packet")
		})
	}
}

func BenchmarkHostToGuest(b *testing.B) {
	for _, size := range []int{64, 4 << 10, 128 << 10} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			l := newBulk(b, csm.MaxPayload)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				l.toGuest(size)
			}
		})
	}
}

// BenchmarkConnect opens and closes a connection of the guest.
func BenchmarkConnect(b *testing.B) {
	v := newVM(b, options{})
	fd := listenFd(b, v.portPath(52), 16)
	defer unix.Close(fd)
	d := v.driver
	b.ReportAllocs()
	for b.Loop() {
		d.Send(d.Header(1000, 52, csm.OpRequest), nil)
		d.Expect(csm.OpResponse)
		c, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
		if err != nil {
			b.Fatal(err)
		}
		unix.Close(c)
		d.Expect(csm.OpShutdown)
		d.Send(d.Header(1000, 52, csm.OpRST), nil)
	}
}

// What it costs the loop to describe the most connections that a VM has by default.
func BenchmarkConnections(b *testing.B) {
	const n = 4096
	v := newVM(b, options{})
	l := listenFd(b, v.portPath(52), n)
	defer unix.Close(l)
	for port := range uint32(n) {
		v.driver.Send(v.driver.Header(1000+port, 52, csm.OpRequest), nil)
		v.driver.Expect(csm.OpResponse)
	}
	room := make([]muxer.Connection, 0, n)
	b.ReportAllocs()
	v.do(func() {
		for b.Loop() {
			room = v.m.Connections(room[:0])
		}
	})
	if len(room) != n {
		b.Fatalf("%d connections", len(room))
	}
}

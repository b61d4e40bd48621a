package muxer_test

import (
	"fmt"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
)

// messageBulk is bulk for a connection of messages.
type messageBulk struct{ *bulk }

func newMessageBulk(t testing.TB) messageBulk {
	pieces := make(map[int][]int)
	framing := muxertest.Framing{Tx: func(size int) []int {
		if pieces[size] == nil {
			pieces[size] = muxertest.LinuxTx(size)
		}
		return pieces[size]
	}}
	b := &bulk{
		vm:     newVM(t, options{seqpacket: true, ringSize: 256, driver: muxertest.Options{Framing: framing}}),
		packet: pattern(csm.MaxMessage),
		buf:    make([]byte, csm.MaxMessage),
	}
	fd := listenTypeFd(t, unix.SOCK_SEQPACKET, b.portPath(52), 1)
	defer unix.Close(fd)
	b.driver.Send(b.messageHeader(1000, 52, csm.OpRequest), nil)
	b.driver.Expect(csm.OpResponse)
	program, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
	if err != nil {
		t.Fatal("accept:", err)
	}
	t.Cleanup(func() { unix.Close(program) })
	patient := unix.NsecToTimeval(patience.Nanoseconds())
	unix.SetsockoptTimeval(program, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &patient)
	unix.SetsockoptTimeval(program, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &patient)
	unix.SetsockoptInt(program, unix.SOL_SOCKET, unix.SO_SNDBUF, 1<<20)
	b.program = program
	b.rw = b.messageHeader(1000, 52, csm.OpRW)
	b.update = b.messageHeader(1000, 52, csm.OpCreditUpdate)
	l := messageBulk{b}
	const most = 255 // fit into the ring, as many as one turn may take before it gives any back
	l.do(func() {    // so that the driver has all the memory that it will use
		for range most {
			l.add(64)
		}
	})
	l.driver.Kick()
	for range most {
		l.read(64)
	}
	return l
}

// add puts a message into the tx ring.
func (b messageBulk) add(size int) {
	for at := 0; at < size; at += csm.MaxPayload {
		n := min(csm.MaxPayload, size-at)
		b.rw.Flags = 0
		if at+n == size {
			b.rw.Flags = csm.SeqEOM
		}
		b.driver.Add(b.rw, b.packet[at:at+n])
	}
}

// read takes a message at the host program.
func (b messageBulk) read(size int) {
	for {
		n, err := unix.Read(b.program, b.buf)
		if err == unix.EINTR {
			continue
		}
		if n != size || err != nil {
			b.t.Fatalf("host program reads %d, %v; want a message of %d bytes", n, err, size)
		}
		return
	}
}

// toHost sends messages of size bytes and reads them at the host program.
func (b messageBulk) toHost(messages, size int) {
	for range messages {
		b.add(size)
	}
	b.driver.Kick()
	for range messages {
		b.read(size)
	}
	for ok := true; ok; { // credit
		_, ok = b.driver.TryRecv()
	}
}

// toGuest sends messages of size bytes to the guest, which acknowledges each.
func (b messageBulk) toGuest(messages, size int) {
	for range messages {
		if _, err := unix.Write(b.program, b.packet[:size]); err != nil {
			b.t.Fatal("host program writes:", err)
		}
	}
	for left := messages; left > 0; {
		p, ok := b.driver.Recv(patience)
		if !ok {
			b.t.Fatalf("%d messages did not come", left)
		}
		if p.Op == csm.OpRW {
			b.update.FwdCnt += p.Len
		}
		if p.Op == csm.OpRW && p.Flags&csm.SeqEOM != 0 {
			left--
			b.driver.Send(b.update, nil)
		}
	}
}

// Nothing is allocated on the way of messages, whole and in pieces.
func TestMessagesAllocateNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for name, move := range map[string]func(b messageBulk){
		"small ones to the host":  func(b messageBulk) { b.toHost(10, 100) },
		"large ones to the host":  func(b messageBulk) { b.toHost(1, 200<<10) },
		"small ones to the guest": func(b messageBulk) { b.toGuest(10, 100) },
		"large ones to the guest": func(b messageBulk) { b.toGuest(2, 200<<10) }, // the second in pieces
		"kept for the host": func(b messageBulk) {
			for range 4 { // in pieces, and more than the socket takes
				for at := range 3 {
					b.rw.Flags = uint32(at / 2)
					b.driver.Send(b.rw, b.packet[:csm.MaxPayload])
					if !b.driver.WaitTx(patience) {
						b.t.Fatal("the tx ring stands still")
					}
				}
			}
			for range 4 {
				b.read(3 * csm.MaxPayload)
			}
			b.toHost(0, 0)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newMessageBulk(t)
			for range 20 {
				move(b)
			}
			if n := testing.AllocsPerRun(100, func() { move(b) }); n != 0 {
				t.Errorf("%v allocations", n)
			}
			if name == "kept for the host" && b.stats.HostStalls.Load() < 10 {
				t.Errorf("%d stalls: this test tests nothing", b.stats.HostStalls.Load())
			}
		})
	}
}

func BenchmarkMessagesToHost(b *testing.B) {
	for _, size := range []int{64, 4 << 10, 64 << 10, csm.MaxMessage} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			l := newMessageBulk(b)
			messages := max(1, min(128, 192<<10/size))
			b.SetBytes(int64(messages * size))
			b.ReportAllocs()
			for b.Loop() {
				l.toHost(messages, size)
			}
		})
	}
}

func BenchmarkMessagesToGuest(b *testing.B) {
	for _, size := range []int{64, 4 << 10, 64 << 10, csm.MaxMessage} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			l := newMessageBulk(b)
			messages := max(1, min(64, 192<<10/size))
			b.SetBytes(int64(messages * size))
			b.ReportAllocs()
			for b.Loop() {
				l.toGuest(messages, size)
			}
		})
	}
}

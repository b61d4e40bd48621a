package tests

import (
	"io"
	"math"
	"net"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

// hostileMessage is what a frontend sends on a session whose guest is at work.
type hostileMessage struct {
	name string
	send func(*board)
	// ends says that the session must be over behind it; otherwise the guest
	// must be as well as before.
	ends bool
}

// raw is a message of which nothing has to be right.
func raw(request vhostuser.Request, flags vhostuser.Flags, size uint32, payload []byte) []byte {
	return append(vhostuser.Header{Request: request, Flags: flags, Size: size}.AppendTo(nil), payload...)
}

// nack sends a message that must be acknowledged as failed.
func nack(request vhostuser.Request, payload []byte, fds ...func(*board) int) func(*board) {
	return func(b *board) {
		b.t.Helper()
		if b.frontend.Ack(request, payload, open(b, fds)...) == 0 {
			b.t.Errorf("%v: acknowledged with success", request)
		}
	}
}

// tell sends a message that cannot be acknowledged.
func tell(p []byte, fds ...func(*board) int) func(*board) {
	return func(b *board) { b.frontend.TryWrite(p, open(b, fds)...) }
}

// accepted sends a message that must be acknowledged with success.
func accepted(request vhostuser.Request, payload []byte, fds ...func(*board) int) func(*board) {
	return func(b *board) {
		b.t.Helper()
		if code := b.frontend.Ack(request, payload, open(b, fds)...); code != 0 {
			b.t.Errorf("%v: failed with %d", request, code)
		}
	}
}

func open(b *board, make []func(*board) int) (fds []int) {
	for _, f := range make {
		fds = append(fds, f(b))
	}
	return fds
}

// Descriptors to send, which end with the board.
var (
	aPage = file(func() (int, error) {
		fd, err := unix.MemfdCreate("hostile", unix.MFD_CLOEXEC)
		if err == nil {
			err = unix.Ftruncate(fd, page)
		}
		return fd, err
	})
	anEventfd = file(func() (int, error) { return unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK) })
	aFile     = file(func() (int, error) { return unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	aDir      = file(func() (int, error) { return unix.Open("/", unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	anEpoll   = file(func() (int, error) { return unix.EpollCreate1(unix.EPOLL_CLOEXEC) })
	deadPipe  = file(func() (int, error) {
		var p [2]int
		err := unix.Pipe2(p[:], unix.O_CLOEXEC)
		unix.Close(p[1])
		return p[0], err
	})
	fullPipe = file(func() (int, error) {
		var p [2]int
		if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
			return -1, err
		}
		for _, err := unix.Write(p[1], make([]byte, 4096)); err == nil; {
			_, err = unix.Write(p[1], make([]byte, 4096))
		}
		// The reader stays as long as the writer: it is in flight with it.
		return p[1], unix.SetNonblock(p[1], false)
	})
)

const page = 4096

func file(make func() (int, error)) func(*board) int {
	return func(b *board) int {
		fd, err := make()
		if err != nil {
			b.t.Fatal(err)
		}
		b.t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
}

func region(r guestmem.Region) []byte { return vhostuser.MemRegions{r}.AppendTo(nil) }

var (
	state = vhostusertest.State
	u64   = vhostusertest.U64
	far   = guestmem.Region{GuestAddr: 1 << 40, Size: page, UserAddr: 1 << 41}
)

// hostileMessages are lines of the hostile inputs whose effect can be seen from
// outside.
var hostileMessages = []hostileMessage{
	{"short header", tell(raw(1, 1, 0, nil)[:5]), false},
	{"huge size", tell(raw(1, 1, math.MaxUint32, nil)), true},
	{"size 4097", tell(raw(1, 1, 4097, make([]byte, 4097))), true},
	{"size on empty", tell(raw(1, 1, 8, make([]byte, 8))), true},
	{"truncated payload", nack(vhostuser.MsgSetVringAddr, make([]byte, 39)), false},
	{"oversized payload", nack(vhostuser.MsgSetVringNum, make([]byte, 16)), false},
	{"version 0", tell(raw(1, 0, 0, nil)), true},
	{"version 2", tell(raw(1, 2, 0, nil)), true},
	{"reply flag", tell(raw(1, 5, 0, nil)), true},
	{"reserved flags", tell(raw(1, 0x11, 0, nil)), true},
	{"unknown 0", nack(0, nil), false},
	{"unknown 45", nack(45, make([]byte, 100)), false},
	{"unknown, not to be acknowledged", tell(raw(math.MaxUint32, 1, 0, nil)), true},
	{"descriptor flood", func(b *board) {
		fds := make([]int, 253) // what one sendmsg takes
		b.frontend.TryWrite(raw(vhostuser.MsgSetOwner, 1, 0, nil), fds...)
	}, true},
	{"descriptor on plain", nack(vhostuser.MsgSetOwner, nil, aPage), false},
	{"memory: descriptors short", nack(vhostuser.MsgSetMemTable, vhostuser.MemRegions{far, far}.AppendTo(nil), aPage), false},
	{"memory: descriptors long", nack(vhostuser.MsgSetMemTable, region(far), aPage, aPage, aPage), false},
	{"memory: num huge", nack(vhostuser.MsgSetMemTable, u64(math.MaxUint32)), false},
	{"region: zero size", nack(vhostuser.MsgSetMemTable, region(guestmem.Region{GuestAddr: page}), aPage), false},
	{"region: address overflows", nack(vhostuser.MsgSetMemTable, region(guestmem.Region{GuestAddr: math.MaxUint64 - page + 1, Size: 2 * page}), aPage), false},
	{"region: offset overflows", nack(vhostuser.MsgSetMemTable, region(guestmem.Region{Size: page, Offset: math.MaxUint64 - page + 1}), aPage), false},
	{"region: file short", nack(vhostuser.MsgSetMemTable, region(guestmem.Region{Size: 1 << 30}), aPage), false},
	{"region: pipe", nack(vhostuser.MsgSetMemTable, region(far), deadPipe), false},
	{"region: eventfd", nack(vhostuser.MsgSetMemTable, region(far), anEventfd), false},
	{"region: directory", nack(vhostuser.MsgSetMemTable, region(far), aDir), false},
	{"region: unknown", nack(vhostuser.MsgRemMemReg, vhostuser.SingleMemRegion(far).AppendTo(nil)), false},
	{"ring 3", nack(vhostuser.MsgSetVringNum, state(3, 128)), false},
	{"ring 2^32-1", nack(vhostuser.MsgSetVringEnable, state(math.MaxUint32, 1)), false},
	{"ring 255: base", tell(raw(vhostuser.MsgGetVringBase, 1, 8, state(255, 0))), true},
	{"num 0", nack(vhostuser.MsgSetVringNum, state(2, 0)), false},
	{"num 3", nack(vhostuser.MsgSetVringNum, state(2, 3)), false},
	{"num 65536", nack(vhostuser.MsgSetVringNum, state(2, 65536)), false},
	{"addresses unmapped", nack(vhostuser.MsgSetVringAddr, vhostuser.VringAddr{Index: 2, Desc: page, Avail: page, Used: page}.AppendTo(nil)), false},
	{"address flags", nack(vhostuser.MsgSetVringAddr, vhostuser.VringAddr{Index: 2, Flags: math.MaxUint32}.AppendTo(nil)), false},
	{"kick: writer gone", accepted(vhostuser.MsgSetVringKick, u64(2), deadPipe), false},
	{"kick: regular file", nack(vhostuser.MsgSetVringKick, u64(2), aPage), false},
	{"kick: epoll", func(b *board) { b.frontend.Ack(vhostuser.MsgSetVringKick, u64(2), anEpoll(b)) }, false},
	{"kick: always readable", func(b *board) { b.frontend.Ack(vhostuser.MsgSetVringKick, u64(2), aFile(b)) }, false},
	{"call: full pipe", accepted(vhostuser.MsgSetVringCall, u64(2), fullPipe), false},
	{"call: read-only", func(b *board) { b.frontend.Ack(vhostuser.MsgSetVringCall, u64(2), aFile(b)) }, false},
	{"kick: neither descriptor nor bit", nack(vhostuser.MsgSetVringKick, u64(2)), false},
	{"kick: high bits", nack(vhostuser.MsgSetVringKick, u64(1<<9), anEventfd), false},
	{"enable 2", nack(vhostuser.MsgSetVringEnable, state(2, 2)), false},
	{"features: without VERSION_1", nack(vhostuser.MsgSetFeatures, u64(0)), false},
	{"protocol features: not offered", nack(vhostuser.MsgSetProtocolFeatures, u64(math.MaxUint64)), false},
	{"protocol features: INBAND alone", nack(vhostuser.MsgSetProtocolFeatures, u64(1<<14)), false},
	{"log: no size", tell(raw(vhostuser.MsgSetLogBase, 1, 16, make([]byte, 16)), aPage), true},
	{"log: file short", tell(raw(vhostuser.MsgSetLogBase, 1, 16, vhostuser.LogRegion{Size: 1 << 30}.AppendTo(nil)), aPage), true},
	{"log: pipe", tell(raw(vhostuser.MsgSetLogBase, 1, 16, vhostuser.LogRegion{Size: page}.AppendTo(nil)), deadPipe), true},
	{"config: written", accepted(vhostuser.MsgSetConfig, append(vhostuser.ConfigSpace{Size: 8}.AppendTo(nil), make([]byte, 8)...)), false},
	{"config: payload missing", nack(vhostuser.MsgSetConfig, vhostuser.ConfigSpace{Size: 8}.AppendTo(nil)), false},
	{"device state", nack(42, make([]byte, 8), deadPipe), false},
	{"flood of call descriptors", func(b *board) {
		fd := anEventfd(b)
		for range 20000 {
			b.frontend.Write(vhostusertest.Message(vhostuser.MsgSetVringCall, 0, u64(2)), fd)
		}
		b.frontend.Barrier()
	}, false},
	{"memory shrinks", func(b *board) {
		b.powerOff() // or the test would fault, too
		if err := b.memory.Memory.Shrink(0, page); err != nil {
			b.t.Fatal(err)
		}
		b.memory.Tx().ForceKick()
	}, true},
}

// Whatever a frontend sends: the daemon lives and is at rest, the guest goes on
// unless the session had to end, and the next session works.
func TestSimulatedHostileMessages(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	files := h.descriptors()
	for _, m := range hostileMessages {
		t.Run(m.name, func(t *testing.T) {
			h.t = t
			b := h.boot(t)
			g, c := b.dial()
			m.send(b)
			h.mustBeAlive()
			if m.ends {
				b.frontend.WaitClosed()
				mustEndAt(t, c)
			} else {
				mustWrite(t, g, []byte("as well as before"))
				mustReadJust(t, c, []byte("as well as before"))
				b.mustWork(kib)
				h.mustIdle()
			}
			b.powerOff()
			b.frontend.Close()
			h.mustServe(t)
			h.await(0, "frontend_attached")
			h.mustForget()
			vm.Eventually(t, patience, "no descriptor is left", func() bool { return h.descriptors() <= files+2 })
			if n := h.mappings(); n != 0 {
				t.Errorf("%d pieces of guests' memory are mapped", n)
			}
		})
	}
	h.t = t
	h.mustIdle()
}

// hostileRing is what a driver does to a ring that carries a connection.
type hostileRing struct {
	name   string
	ring   int
	do     func(mem *virtqueuetest.Memory, r *virtqueuetest.Ring)
	breaks string // the reason why the ring must break; without one it must not
	bad    int    // chains that must be given back as bad
}

// size is how many entries QEMU's rings have; last is a descriptor that the
// drivers here do not come to.
const (
	size = 128
	last = size - 1
)

const (
	rx = vhostusertest.RxIndex
	tx = vhostusertest.TxIndex
)

// chain makes descriptors available as they are, the first as the head. They are
// the last of the table, and follow each other where they say NEXT.
func chain(descs ...virtqueuetest.Desc) func(*virtqueuetest.Memory, *virtqueuetest.Ring) {
	return func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) {
		head := uint16(size - len(descs))
		for i, d := range descs {
			if d.Flags&virtqueuetest.Next != 0 && d.Next == 0 {
				d.Next = head + uint16(i) + 1
			}
			r.SetDesc(head+uint16(i), d)
		}
		r.Post(head)
	}
}

// table makes an indirect table available.
func table(length uint32, descs ...virtqueuetest.Desc) func(*virtqueuetest.Memory, *virtqueuetest.Ring) {
	return func(mem *virtqueuetest.Memory, r *virtqueuetest.Ring) {
		gpa := mem.Alloc(uint64(16*max(len(descs), 1)), 16)
		mem.PutTable(gpa, descs...)
		chain(virtqueuetest.Desc{Addr: gpa, Len: length, Flags: virtqueuetest.Indirect})(mem, r)
	}
}

const (
	inRAM   = 2 << 20
	next    = virtqueuetest.Next
	written = virtqueuetest.Write
	refers  = virtqueuetest.Indirect
)

var header = virtqueuetest.Desc{Addr: inRAM, Len: csm.HeaderSize}

func with(d virtqueuetest.Desc, flags, next uint16) virtqueuetest.Desc {
	d.Flags, d.Next = flags, next
	return d
}

var hostileRings = []hostileRing{
	{"avail jumps", tx, func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) { r.SetAvailIdx(r.AvailIdx() + size + 1) }, "avail_index", 0},
	{"avail goes back", tx, func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) { r.SetAvailIdx(r.AvailIdx() - 1) }, "avail_index", 0},
	{"avail of rx jumps", rx, func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) { r.SetAvailIdx(r.AvailIdx() + size + 1) }, "avail_index", 0},
	{"head out of range", tx, func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) { r.Post(size) }, "descriptor_index", 0},
	{"head 65535", tx, func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) { r.Post(math.MaxUint16) }, "descriptor_index", 0},
	{"next out of range", tx, chain(with(header, next, size)), "descriptor_index", 0},
	{"self-loop", tx, chain(with(header, next, last)), "loop", 0},
	{"loop of two", tx, chain(with(header, next, last), with(header, next, last-1)), "loop", 0},
	{"writable before readable", tx, chain(with(header, next|written, 0), header), "order", 0},
	{"indirect, empty", tx, table(0), "indirect", 0},
	{"indirect, 15 bytes", tx, table(15, header), "indirect", 0},
	{"indirect, 2^32-16 bytes", tx, table(math.MaxUint32-15, header), "indirect", 0},
	{"indirect, nested", tx, table(16, with(header, refers, 0)), "indirect", 0},
	{"indirect and next", tx, chain(virtqueuetest.Desc{Addr: inRAM, Len: 16, Flags: refers | next}, header), "indirect", 0},
	{"indirect, nowhere", tx, chain(virtqueuetest.Desc{Addr: 1 << 50, Len: 16, Flags: refers}), "indirect", 0},
	{"writable to transmit", tx, chain(with(header, written, 0)), "", 0},
	{"nowhere", tx, chain(virtqueuetest.Desc{Addr: 1 << 50, Len: csm.HeaderSize}), "", 1},
	{"address wraps", tx, chain(virtqueuetest.Desc{Addr: math.MaxUint64, Len: 2}), "", 1},
	{"2^32-1 bytes", tx, chain(virtqueuetest.Desc{Addr: inRAM, Len: math.MaxUint32}), "", 1},
	{"zero lengths", tx, chain(with(virtqueuetest.Desc{Addr: inRAM}, next, 0), with(header, next, 0), virtqueuetest.Desc{}), "", 0},
	{"used index tampered", tx, func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) { r.SetUsedIdx(r.UsedIdx() + 77) }, "", 0},
	{"kick storm", tx, func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) {
		for range 100000 {
			r.ForceKick()
		}
	}, "", 0},
	{"used_event sweep", tx, func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) {
		for i := range 1 << 16 {
			r.SetUsedEvent(uint16(i))
		}
	}, "", 0},
}

// slots makes descriptors of a packed ring available as one chain.
func slots(descs ...virtqueuetest.PackedDesc) func(*virtqueuetest.Memory, *virtqueuetest.Ring) {
	return func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) { r.PostSlots(descs...) }
}

// packedTable makes an indirect table of a packed ring available.
func packedTable(length uint32, descs ...virtqueuetest.PackedDesc) func(*virtqueuetest.Memory, *virtqueuetest.Ring) {
	return func(mem *virtqueuetest.Memory, r *virtqueuetest.Ring) {
		gpa := mem.Alloc(uint64(16*max(len(descs), 1)), 16)
		mem.PutPackedTable(gpa, descs...)
		r.PostSlots(virtqueuetest.PackedDesc{Addr: gpa, Len: length, ID: last, Flags: refers})
	}
}

// slot is a header that a packed chain transmits; its id is none that the drivers here
// come to.
func slot(flags uint16) virtqueuetest.PackedDesc {
	return virtqueuetest.PackedDesc{Addr: inRAM, Len: csm.HeaderSize, ID: last, Flags: flags}
}

// at is a slot with another place and length.
func at(addr uint64, length uint32) virtqueuetest.PackedDesc {
	return virtqueuetest.PackedDesc{Addr: addr, Len: length, ID: last}
}

var hostilePackedRings = []hostileRing{
	{"id out of range", tx, slots(virtqueuetest.PackedDesc{Addr: inRAM, Len: csm.HeaderSize, ID: size}), "descriptor_index", 0},
	{"id 65535", tx, slots(virtqueuetest.PackedDesc{Addr: inRAM, Len: csm.HeaderSize, ID: math.MaxUint16}), "descriptor_index", 0},
	{"id of rx out of range", rx, func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) {
		for i := range size { // those that the device has, too
			d := r.Slot(i)
			d.ID = size
			r.SetSlot(i, d)
		}
	}, "descriptor_index", 0},
	{"chain without end", tx, slots(slices.Repeat([]virtqueuetest.PackedDesc{slot(next)}, size)...), "loop", 0},
	{"chain cut off", tx, slots(slot(next)), "loop", 0},
	{"writable before readable", tx, slots(slot(next|written), slot(0)), "order", 0},
	{"indirect, empty", tx, packedTable(0), "indirect", 0},
	{"indirect, 15 bytes", tx, packedTable(15, slot(0)), "indirect", 0},
	{"indirect, 2^32-16 bytes", tx, packedTable(math.MaxUint32-15, slot(0)), "indirect", 0},
	{"indirect, nested", tx, packedTable(16, slot(refers)), "indirect", 0},
	{"indirect and next", tx, slots(virtqueuetest.PackedDesc{Addr: inRAM, Len: 16, ID: last, Flags: refers | next}, slot(0)), "indirect", 0},
	{"indirect, nowhere", tx, slots(virtqueuetest.PackedDesc{Addr: 1 << 50, Len: 16, ID: last, Flags: refers}), "indirect", 0},
	{"NEXT in a table", tx, packedTable(32, slot(next), at(inRAM, 0)), "", 0},
	{"writable to transmit", tx, slots(slot(written)), "", 0},
	{"nowhere", tx, slots(at(1<<50, csm.HeaderSize)), "", 1},
	{"address wraps", tx, slots(at(math.MaxUint64, 2)), "", 1},
	{"2^32-1 bytes", tx, slots(at(inRAM, math.MaxUint32)), "", 1},
	{"marks of the next lap", tx, func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) {
		r.SetSlot(r.NextSlot(), slot(virtqueuetest.Used))
	}, "", 0},
	{"both marks", tx, func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) {
		r.SetSlot(r.NextSlot(), slot(virtqueuetest.Used|virtqueuetest.Avail))
	}, "", 0},
	{"used slots tampered", tx, func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) { r.SetSlot(0, slot(0)) }, "", 0},
	{"event area sweep", tx, func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) {
		for i := range 1 << 16 {
			r.SetDriverEvent(uint16(i), uint16(i>>3))
		}
	}, "", 0},
	{"kick storm", tx, func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) {
		for range 100000 {
			r.ForceKick()
		}
	}, "", 0},
}

// Whatever a driver does to a ring: at most that ring breaks, and tells its
// frontend. The other goes on, the daemon is at rest, and the next session works.
func TestSimulatedHostileRings(t *testing.T) {
	t.Parallel()
	testHostileRings(t, newHost(t), vhostusertest.GuestOptions{}, hostileRings)
}

func TestSimulatedHostilePackedRings(t *testing.T) {
	t.Parallel()
	testHostileRings(t, newHost(t, packed), vhostusertest.GuestOptions{Packed: true}, hostilePackedRings)
}

func testHostileRings(t *testing.T, h *host, o vhostusertest.GuestOptions, rings []hostileRing) {
	for _, r := range rings {
		t.Run(r.name, func(t *testing.T) {
			h.t = t
			b, d := h.bareWith(t, o, muxertest.Options{Buffers: 16})
			broken := anEventfd(b)
			b.frontend.SetVringErr(uint32(r.ring), broken)
			b.frontend.Barrier()
			port, l := b.listen()
			d.Send(d.Header(lastWordsPort, port, csm.OpRequest), nil)
			d.Expect(csm.OpResponse)
			c := acceptFrom(t, l)
			if !d.WaitTx(patience) {
				t.Fatal("the daemon keeps the REQUEST")
			}

			queue := []string{`queue="rx"`, `queue="tx"`}[r.ring]
			errors, bad := h.metric("ring_errors_total"), h.metric("bad_chains_total", queue)
			r.do(b.memory.Memory, b.memory.Rings[r.ring])
			b.memory.Rings[r.ring].ForceKick()
			mustWrite(t, c, []byte("hello guest"))
			if r.ring == rx { // the daemon may know of buffers from before: it needs more
				mustWrite(t, c, make([]byte, 128*kib))
			}
			if r.breaks != "" {
				h.await(errors+1, "ring_errors_total")
				if h.metric("ring_errors_total", queue, `reason="`+r.breaks+`"`) == 0 {
					t.Errorf("not as %s: %v", r.breaks, h.Scrape(t))
				}
				poll := []unix.PollFd{{Fd: int32(broken), Events: unix.POLLIN}}
				if n, err := unix.Poll(poll, int(patience.Milliseconds())); n != 1 {
					t.Errorf("VRING_ERR was not told: %v", err)
				}
			} else {
				h.await(bad+r.bad, "bad_chains_total", queue)
			}
			if r.ring == tx { // and rx as before
				if p := d.Expect(csm.OpRW); string(p.Payload) != "hello guest" {
					t.Errorf("received %q", p.Payload)
				}
			} else { // and tx as before
				d.Send(d.Header(lastWordsPort, port, csm.OpRW), []byte("hello host"))
				mustReadJust(t, c, []byte("hello host"))
			}
			b.frontend.Barrier()
			h.mustBeAlive()
			h.mustIdle()
			if n := h.metric("ring_errors_total"); r.breaks == "" && n != errors {
				t.Errorf("%d rings broke", n-errors)
			}
			b.frontend.Close()
			if _, err := io.Copy(io.Discard, c); err != nil {
				t.Errorf("the program's connection: %v", err)
			}
			h.mustServe(t)
		})
	}
	h.t = t
}

// hostilePacket is a packet that breaks the rules.
type hostilePacket struct {
	name    string
	edit    func(*csm.Header)
	payload int
	resets  bool // RST is due, else nothing
}

var hostilePackets = []hostilePacket{
	{"RW to nobody", func(h *csm.Header) {}, 10, true},
	{"RW to nobody, len beyond the chain", func(h *csm.Header) { h.Len = 1000 }, 10, false},
	{"RW to nobody, len 65537", func(h *csm.Header) { h.Len = 65537 }, 65537, false},
	{"RW to nobody, len 2^32-1", func(h *csm.Header) { h.Len = math.MaxUint32 }, 10, false},
	{"SHUTDOWN of nothing", func(h *csm.Header) { h.Op, h.Flags = csm.OpShutdown, math.MaxUint32 }, 0, true},
	{"CREDIT_UPDATE for nobody", func(h *csm.Header) { h.Op = csm.OpCreditUpdate }, 0, true},
	{"CREDIT_REQUEST for nobody", func(h *csm.Header) { h.Op = csm.OpCreditRequest }, 0, true},
	{"RESPONSE to nothing", func(h *csm.Header) { h.Op = csm.OpResponse }, 0, true},
	{"RST for nobody", func(h *csm.Header) { h.Op = csm.OpRST }, 0, false},
	{"operation 0", func(h *csm.Header) { h.Op = 0 }, 0, true},
	{"operation 8", func(h *csm.Header) { h.Op = 8 }, 0, true},
	{"operation 65535", func(h *csm.Header) { h.Op = math.MaxUint16 }, 0, true},
	{"type 0", func(h *csm.Header) { h.Type = 0 }, 0, true},
	{"type 65535", func(h *csm.Header) { h.Type = math.MaxUint16 }, 0, true},
	{"SEQPACKET", func(h *csm.Header) { h.Type, h.Op = 2, csm.OpRequest }, 0, true},
	{"RST of type 3", func(h *csm.Header) { h.Type, h.Op = 3, csm.OpRST }, 0, false},
	{"from CID 0", func(h *csm.Header) { h.SrcCID, h.Op = 0, csm.OpRequest }, 0, false},
	{"from the host's CID", func(h *csm.Header) { h.SrcCID, h.Op = csm.HostCID, csm.OpRequest }, 0, false},
	{"from a neighbour", func(h *csm.Header) { h.SrcCID, h.Op = 4, csm.OpRequest }, 0, false},
	{"from 2^32 beyond", func(h *csm.Header) { h.SrcCID |= 1 << 32; h.Op = csm.OpRequest }, 0, false},
	{"to CID 0", func(h *csm.Header) { h.DstCID, h.Op = 0, csm.OpRequest }, 0, true},
	{"to itself", func(h *csm.Header) { h.DstCID, h.Op = h.SrcCID, csm.OpRequest }, 0, true},
	{"to any CID", func(h *csm.Header) { h.DstCID, h.Op = math.MaxUint32, csm.OpRequest }, 0, true},
	{"to 2^32 beyond", func(h *csm.Header) { h.DstCID |= 1 << 32; h.Op = csm.OpRequest }, 0, true},
}

// Packets that break the rules are answered as the standard has it, and a
// connection beside them never notices.
func TestSimulatedHostilePackets(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	b, d := h.bare(t, muxertest.Options{})
	port, l := b.listen()
	d.Send(d.Header(lastWordsPort, port, csm.OpRequest), nil)
	d.Expect(csm.OpResponse)
	c := acceptFrom(t, l)
	for i, p := range hostilePackets {
		header := d.Header(5000+uint32(i), port, csm.OpRW)
		p.edit(&header)
		d.Send(header, bytesOf(p.payload))
		answers := d.Barrier()
		switch {
		case !p.resets && len(answers) > 0:
			t.Errorf("%s: answered by %v", p.name, answers)
		case p.resets && (len(answers) != 1 || answers[0].Op != csm.OpRST || answers[0].Type != header.Type || answers[0].SrcCID != header.DstCID):
			t.Errorf("%s: answered by %v, not by one RST", p.name, answers)
		}
	}
	for n := range csm.HeaderSize {
		d.SendBytes(bytesOf(n))
	}
	for range 5000 {
		d.Add(d.Header(6000, port, csm.OpRST), nil)
	}
	if answers := d.Barrier(); len(answers) > 0 {
		t.Errorf("short packets and RSTs were answered by %v", answers)
	}
	for range 2000 { // answered by fewer
		d.Add(d.Header(lastWordsPort, port, csm.OpCreditRequest), nil)
	}
	d.Barrier()
	d.Send(d.Header(lastWordsPort, port, csm.OpRW), []byte("unharmed"))
	mustReadJust(t, c, []byte("unharmed"))
	h.mustIdle()
}

// violations break the rules on a connection of lastWordsPort.
var violations = []struct {
	name string
	do   func(d *muxertest.Driver, hostPort uint32)
}{
	{"more than was allowed", func(d *muxertest.Driver, port uint32) {
		for range 32 {
			d.Send(d.Header(lastWordsPort, port, csm.OpRW), bytesOf(csm.MaxPayload))
		}
	}},
	{"a second REQUEST", func(d *muxertest.Driver, port uint32) {
		d.Send(d.Header(lastWordsPort, port, csm.OpRequest), nil)
	}},
	{"len beyond the chain", func(d *muxertest.Driver, port uint32) {
		h := d.Header(lastWordsPort, port, csm.OpRW)
		h.Len = 1000
		d.Send(h, bytesOf(10))
	}},
}

// What breaks the rules ends a connection: its program gets what was sent before,
// then end of file, and those beside it are as before.
func TestSimulatedViolations(t *testing.T) {
	t.Parallel()
	for _, v := range violations {
		t.Run(v.name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			b, d := h.bare(t, muxertest.Options{})
			port, l := b.listen()
			open := func(guestPort uint32) *net.UnixConn {
				d.Send(d.Header(guestPort, port, csm.OpRequest), nil)
				d.Expect(csm.OpResponse)
				return acceptFrom(t, l)
			}
			other, c := open(1), open(lastWordsPort)
			before := bytesOf(10 * kib)
			d.Send(d.Header(lastWordsPort, port, csm.OpRW), before)
			v.do(d, port)
			expectReset(t, d)
			mustReadJust(t, c, before)
			if _, err := io.Copy(io.Discard, c); err != nil {
				t.Error(err)
			}
			d.Send(d.Header(1, port, csm.OpRW), []byte("unharmed"))
			mustReadJust(t, other, []byte("unharmed"))
			b.frontend.Close()
			h.mustForget()
			h.mustIdle()
		})
	}
}

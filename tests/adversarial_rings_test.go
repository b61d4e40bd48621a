package tests

import (
	"encoding/binary"
	"io"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

// What a driver does to a ring that carries a connection.
func TestAdversarialRings(t *testing.T) {
	t.Parallel()
	confront(t, newHost(t), ringInputs)
}

const (
	rx = vhostusertest.RxIndex
	tx = vhostusertest.TxIndex
)

// size is how many entries QEMU's rings have; last is a descriptor that the
// drivers here do not come to.
const (
	size = 128
	last = size - 1
)

const (
	next    = virtqueuetest.Next
	written = virtqueuetest.Write
	refers  = virtqueuetest.Indirect
)

// inRAM is the guest address of memory that nothing else uses.
const inRAM = 48 << 20

// ringEdit is what a driver does to a ring.
type ringEdit func(mem *virtqueuetest.Memory, r *virtqueuetest.Ring)

// chain makes descriptors available as they are, the first as the head. They are
// the last of the table, and follow each other where they say NEXT.
func chain(descs ...virtqueuetest.Desc) ringEdit {
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

// indirect makes a table of descriptors available. Flags are of what refers to it.
func indirect(length uint32, flags uint16, descs ...virtqueuetest.Desc) ringEdit {
	return func(mem *virtqueuetest.Memory, r *virtqueuetest.Ring) {
		gpa := mem.Alloc(uint64(16*max(len(descs), 1)), 16)
		mem.PutTable(gpa, descs...)
		chain(virtqueuetest.Desc{Addr: gpa, Len: length, Flags: refers | flags})(mem, r)
	}
}

// header is 44 bytes without any sense, buffer is room for a packet.
var (
	header = virtqueuetest.Desc{Addr: inRAM, Len: csm.HeaderSize}
	buffer = virtqueuetest.Desc{Addr: inRAM, Len: page, Flags: written}
)

func with(d virtqueuetest.Desc, flags, next uint16) virtqueuetest.Desc {
	d.Flags, d.Next = flags, next
	return d
}

func at(gpa uint64, length uint32) virtqueuetest.Desc {
	return virtqueuetest.Desc{Addr: gpa, Len: length}
}

// ringTrial is a ring's driver that misbehaves beside an open connection.
type ringTrial struct {
	*board
	driver *muxertest.Driver
	port   uint32 // the host's
	c      *net.UnixConn
	broken int // what tells of a broken ring
}

// breaks is an edit that breaks its ring, for this reason, and nothing else.
func breaks(name string, ring int, reason string, edit ringEdit) input {
	return input{name, func(h *host) {
		x := h.trial(ring)
		x.mustBreak(ring, reason, edit)
	}}
}

// dropped is an edit that costs the driver no more than its own chains, of which
// this many are given back as bad.
func dropped(name string, ring, bad int, edit ringEdit) input {
	return input{name, func(h *host) {
		x := h.trial(ring)
		x.mustDrop(ring, bad, edit)
	}}
}

var queueLabels = []string{`queue="rx"`, `queue="tx"`}

// trial boots a driver with an open connection.
func (h *host) trial(ring int) *ringTrial {
	h.t.Helper()
	return h.trialOf(vhostusertest.GuestOptions{}, ring)
}

func (h *host) trialOf(o vhostusertest.GuestOptions, ring int) *ringTrial {
	h.t.Helper()
	b := h.plug(h.t, vhostusertest.QEMU10, o)
	b.options.Buffers = 64
	if ring == rx {
		b.options.Buffers = -1 // what the trial posts is all there is
	}
	b.peer.Start()
	d := b.driver()
	x := &ringTrial{board: b, driver: d, broken: anEventfd(h.t)}
	b.frontend.SetVringErr(uint32(ring), x.broken)
	b.frontend.Barrier()
	port, l := b.listen()
	x.port = port
	d.Send(d.Header(lastWordsPort, port, csm.OpRequest), nil)
	if ring == rx {
		d.PostBuffers(1)
	}
	d.Expect(csm.OpResponse)
	x.c = acceptFrom(h.t, l)
	if !d.WaitTx(patience) {
		h.t.Fatal("the daemon keeps the REQUEST")
	}
	return x
}

// do lets the driver loose, and has the device look at both rings.
func (x *ringTrial) do(ring int, edit ringEdit) {
	x.t.Helper()
	edit(x.memory.Memory, x.memory.Rings[ring])
	x.memory.Rings[ring].ForceKick()
	mustWrite(x.t, x.c, []byte("hello guest")) // so that rx is looked at
}

func (x *ringTrial) mustBreak(ring int, reason string, edit ringEdit) {
	x.t.Helper()
	h, labels := x.host, []string{queueLabels[ring], `reason="` + reason + `"`}
	errors := h.metric("ring_errors_total", labels...)
	x.do(ring, edit)
	h.await(errors+1, "ring_errors_total", labels...)
	poll := []unix.PollFd{{Fd: int32(x.broken), Events: unix.POLLIN}}
	if n, err := unix.Poll(poll, int(patience.Milliseconds())); n != 1 {
		x.t.Errorf("VRING_ERR was not told: %v", err)
	}
	x.otherRingWorks(ring)
	h.mustIdle()
}

func (x *ringTrial) mustDrop(ring, bad int, edit ringEdit) {
	x.t.Helper()
	h := x.host
	errors, before := h.metric("ring_errors_total"), h.metric("bad_chains_total", queueLabels[ring])
	x.do(ring, edit)
	h.await(before+bad, "bad_chains_total", queueLabels[ring])
	x.otherRingWorks(ring)
	x.frontend.Barrier()
	h.mustIdle()
	if n := h.metric("ring_errors_total"); n != errors {
		x.t.Errorf("%d rings broke", n-errors)
	}
}

// otherRingWorks sends bytes by the ring that the driver left alone.
func (x *ringTrial) otherRingWorks(ring int) {
	x.t.Helper()
	if ring == tx {
		if p := x.driver.Expect(csm.OpRW); string(p.Payload) != "hello guest" {
			x.t.Errorf("received %q", p.Payload)
		}
		return
	}
	x.driver.Send(x.driver.Header(lastWordsPort, x.port, csm.OpRW), []byte("hello host"))
	mustReadJust(x.t, x.c, []byte("hello host"))
}

// framed boots a guest whose packets lie in descriptors in another way.
func framed(name string, framing muxertest.Framing) input {
	return input{name, func(h *host) {
		b := h.plug(h.t, vhostusertest.QEMU10, vhostusertest.GuestOptions{RingSize: 256})
		b.options.Framing = framing
		b.start()
		b.mustWork(32 * kib)
		h.mustIdle()
		b.powerOff()
	}}
}

// jump publishes an index that is this far off.
func jump(by uint16) ringEdit {
	return func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) { r.SetAvailIdx(r.AvailIdx() + by) }
}

// post makes heads available.
func post(heads ...uint16) ringEdit {
	return func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) {
		for _, head := range heads {
			r.Post(head)
		}
	}
}

const back = math.MaxUint16 // as a distance, one step back

var ringInputs = []input{
	breaks("58 avail-jump", tx, "avail_index", jump(size+1)),
	breaks("58 avail-jump, rx", rx, "avail_index", jump(size+1)),
	breaks("58 avail-backwards", tx, "avail_index", jump(back)),
	breaks("58 avail-backwards, half way round", tx, "avail_index", jump(1<<15)),
	breaks("59 head>=n", tx, "descriptor_index", post(size)),
	breaks("59 head>=n, rx", rx, "descriptor_index", post(size)),
	breaks("59 head 65535", tx, "descriptor_index", post(math.MaxUint16)),
	breaks("59 next>=n", tx, "descriptor_index", chain(with(header, next, size))),
	breaks("59 next 65535", tx, "descriptor_index", chain(with(header, next, math.MaxUint16))),
	breaks("59 self-loop", tx, "loop", chain(with(header, next, last))),
	breaks("59 self-loop of nothing", tx, "loop", chain(with(at(inRAM, 0), next, last))),
	breaks("59 2-loop", tx, "loop", chain(with(header, next, last), with(header, next, last-1))),
	breaks("59 self-loop in a table", tx, "loop", indirect(16*16, 0, with(header, next, 0))),
	breaks("59 next>=n in a table", tx, "descriptor_index", indirect(16, 0, with(header, next, 1))),
	{"60 indirect: no feature", func(h *host) {
		b := h.plug(h.t, vhostusertest.QEMU10, vhostusertest.GuestOptions{Features: vhostuser.FeatureVersion1})
		b.peer.Start()
		b.driver()
		broken := h.metric("ring_errors_total", `reason="indirect"`)
		indirect(16, 0, header)(b.memory.Memory, b.memory.Tx())
		b.memory.Tx().ForceKick()
		h.await(broken+1, "ring_errors_total", `reason="indirect"`)
	}},
	breaks("60 indirect: nested", tx, "indirect", indirect(16, 0, with(header, refers, 0))),
	breaks("60 indirect: len 0", tx, "indirect", indirect(0, 0)),
	breaks("60 indirect: len 15", tx, "indirect", indirect(15, 0, header)),
	breaks("60 indirect: len 17", tx, "indirect", indirect(17, 0, header)),
	breaks("60 indirect: len 2^32-16", tx, "indirect", indirect(math.MaxUint32-15, 0, header)),
	breaks("60 indirect: table OOR", tx, "indirect", chain(virtqueuetest.Desc{Addr: 1 << 50, Len: 16, Flags: refers})),
	breaks("60 indirect: table across the end", tx, "indirect", chain(virtqueuetest.Desc{Addr: ram[0].GuestAddr + ram[0].Size - 16, Len: 32, Flags: refers})),
	breaks("60 indirect: table around the end of all addresses", tx, "indirect", chain(virtqueuetest.Desc{Addr: math.MaxUint64 - 15, Len: 32, Flags: refers})),
	breaks("60 NEXT|INDIRECT", tx, "indirect", indirect(16, next, header)),
	dropped("60 direct+indirect (legal)", tx, 0, func(mem *virtqueuetest.Memory, r *virtqueuetest.Ring) {
		mem.PutTable(inRAM+page, at(inRAM+20, 24))
		chain(with(at(inRAM, 20), next, 0), virtqueuetest.Desc{Addr: inRAM + page, Len: 16, Flags: refers})(mem, r)
	}),
	dropped("60 WRITE flag on ref (ignored)", tx, 0, indirect(16, written, header)),
	framed("60 direct+indirect, every packet", muxertest.Framing{Tx: muxertest.Pieces(9), Direct: 4}),

	breaks("61 w-before-r", tx, "order", chain(with(header, next|written, 0), header)),
	breaks("61 w-before-r, rx", rx, "order", chain(with(buffer, next|written, 0), header)),
	dropped("61 tx-with-W", tx, 0, chain(with(header, next, 0), buffer)),
	dropped("61 tx-with-W alone", tx, 0, chain(buffer)),
	{"61 rx-with-R", func(h *host) { h.unfit(header, with(header, next, 0), buffer) }},

	dropped("62 zero-len descriptors between", tx, 0, chain(
		with(at(inRAM, 0), next, 0), with(at(inRAM, 20), next, 0), with(at(1<<50, 0), next|written, 0), with(at(inRAM+20, 24), next, 0), at(0, 0))),
	framed("62 zero-len descriptors in every packet", muxertest.Framing{
		Rx: []int{0, csm.HeaderSize, 0, 1000, 0}, Tx: func(n int) []int { return []int{0, n / 2, 0, n - n/2, 0} }}),

	dropped("63 oor-gpa", tx, 1, chain(at(1<<50, csm.HeaderSize))),
	dropped("63 oor-gpa, rx", rx, 1, chain(with(at(1<<50, page), written, 0))),
	dropped("63 gpa 2^64-1 len 2", tx, 1, chain(at(math.MaxUint64, 2))),
	dropped("63 len 2^32-1", tx, 1, chain(at(inRAM, math.MaxUint32))),
	dropped("63 len 2^32-1, rx", rx, 1, chain(with(at(inRAM, math.MaxUint32), written, 0))),
	dropped("63 len 2^32-1, over and over", tx, 1, chain(
		with(at(inRAM, math.MaxUint32), next, 0), with(at(inRAM, math.MaxUint32), next, 0), at(inRAM, math.MaxUint32))),
	dropped("63 cross-region legal", tx, 0, chain(at(ram[0].GuestAddr+0xa0000-20, csm.HeaderSize))),
	dropped("63 cross-region into hole", tx, 1, chain(at(ram[0].GuestAddr+ram[0].Size-20, csm.HeaderSize))),
	{"63 cross-region, every byte", crossRegion},

	{"64 rx-buffer 0..43 bytes", func(h *host) {
		var short []virtqueuetest.Desc
		for n := range uint32(csm.HeaderSize) {
			short = append(short, with(at(inRAM, n), written, 0))
		}
		h.unfit(short...)
	}},
	framed("65 rx-1-byte-descriptors x44 + payload", muxertest.Framing{Rx: append(ones(csm.HeaderSize), 3732)}),
	framed("66 header split 1+43", muxertest.Framing{Rx: []int{1, 43, 1000}, Tx: muxertest.CutAt(1, 44)}),
	framed("66 header split 20+24", muxertest.Framing{Rx: []int{20, 24, 1000}, Tx: muxertest.CutAt(20, 44), Gap: 100}),
	framed("66 payload in header desc", muxertest.Framing{Rx: []int{4096}, Tx: muxertest.OnePiece}),

	dropped("67 used-idx tamper", tx, 0, func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) { r.SetUsedIdx(r.UsedIdx() + 77) }),
	dropped("67 used-ring tamper", tx, 0, func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) {
		for i := range uint16(size) {
			r.SetUsedElem(i, virtqueuetest.Elem{ID: math.MaxUint32, Len: math.MaxUint32})
		}
	}),
	dropped("68 used_event sweep", tx, 0, func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) {
		for i := range 1 << 16 {
			r.SetUsedEvent(uint16(i))
		}
	}),
	{"68 used_event of every distance", usedEvents},
	{"69 toctou header", toctouHeader},
	{"69 toctou desc", toctouDescriptor},
	{"70 ring-overlaps-buffer", overlaps},
	{"70 desc table == used ring", func(h *host) {
		b := h.boot(h.t)
		b.frontend.SetVringNum(event, size)
		placed(func(a *vhostuser.VringAddr) { a.Used, a.Avail = a.Desc, a.Desc }).ack(b)
		b.frontend.SetVringKick(event, anEventfd(h.t))
		b.frontend.SetVringEnable(event, true)
		b.mustWork(kib)
		h.mustIdle()
		b.powerOff()
	}},
	dropped("71 kick-storm 1M/s", tx, 0, func(_ *virtqueuetest.Memory, r *virtqueuetest.Ring) {
		for range 200_000 {
			r.ForceKick()
		}
	}),
	{"71 never-kick", func(h *host) {
		x := h.trial(tx)
		x.peer.Stop()
		x.driver.Add(x.driver.Header(lastWordsPort, x.port, csm.OpRW), []byte("nobody kicks for this"))
		x.memory.Tx().Publish()
		x.peer.Resume()
		mustReadJust(h.t, x.c, []byte("nobody kicks for this"))
	}},
	{"73 avail%4==2 alignment", func(h *host) {
		const n = size
		h.ringsAt(func(i uint64) virtqueuetest.Options {
			base := uint64(inRAM) + i*4*page
			return virtqueuetest.Options{Desc: base, Avail: base + 16*n + 2, Used: base + 3*page + 4}
		})
	}},
	{"73 ring at last bytes of region", func(h *host) {
		const desc, avail, used = 16 * size, 6 + 2*size, 6 + 8*size // bytes
		end := ram[0].GuestAddr + ram[0].Size
		h.ringsAt(func(i uint64) virtqueuetest.Options {
			u := (end - i*4*page - used) &^ 3
			a := (u - avail) &^ 1
			return virtqueuetest.Options{Desc: (a - desc) &^ 15, Avail: a, Used: u}
		})
		h.ringsAt(func(i uint64) virtqueuetest.Options {
			a := (end - (1-i)*4*page - avail) &^ 1
			u := (a - used) &^ 3
			return virtqueuetest.Options{Desc: (u - desc) &^ 15, Avail: a, Used: u}
		})
	}},
}

func ones(n int) (lengths []int) {
	for range n {
		lengths = append(lengths, 1)
	}
	return lengths
}

// unfit offers receive buffers that no packet fits into: they are given back, and
// a good one behind them is used.
func (h *host) unfit(descs ...virtqueuetest.Desc) {
	h.t.Helper()
	b, d := h.bare(h.t, muxertest.Options{Buffers: -1})
	r := b.memory.Rx()
	chains := 0
	for i, d := range descs {
		if d.Flags&next != 0 {
			d.Next = uint16(i) + 1
		}
		r.SetDesc(uint16(i), d)
	}
	for i := range descs {
		if i == 0 || descs[i-1].Flags&next == 0 {
			r.Post(uint16(i))
			chains++
		}
	}
	r.ForceKick()
	d.Send(d.Header(1, 1, csm.OpCreditRequest), nil) // an RST is due
	for range chains {
		var e virtqueuetest.Elem
		vm.Eventually(h.t, patience, "a buffer comes back", func() (ok bool) { e, ok = r.Used(); return ok })
		if e.Len != 0 {
			h.t.Errorf("%d bytes in a buffer that takes no packet", e.Len)
		}
	}
	d.PostBuffers(1)
	d.ExpectFor(1, 1, csm.OpRST)
	h.mustIdle()
}

// crossRegion sends packets that cross from one region to the next at every byte.
func crossRegion(h *host) {
	x := h.trial(tx)
	border := ram[0].GuestAddr + 0xa0000 // QEMU's regions
	payload := bytesOf(60)
	for cut := range uint64(csm.HeaderSize + 60) {
		wire := x.wire(csm.OpRW, 60)
		x.memory.Memory.Write(border-cut, append(wire, payload...))
		chain(at(border-cut, csm.HeaderSize+60))(x.memory.Memory, x.memory.Tx())
		x.memory.Tx().ForceKick()
		mustReadJust(h.t, x.c, payload)
	}
}

// wire is the header of a packet on the trial's connection.
func (x *ringTrial) wire(op csm.Op, n uint32) []byte {
	hdr := x.driver.Header(lastWordsPort, x.port, op)
	hdr.Len = n
	var wire [csm.HeaderSize]byte
	hdr.Encode(&wire)
	return wire[:]
}

// usedEvents wants an interrupt exactly where the driver asks for one: for the
// first, second, ... of the chains that are used together.
func usedEvents(h *host) {
	x := h.trial(tx)
	r := x.memory.Tx()
	x.memory.Memory.Write(inRAM, x.wire(csm.OpRW, 0))
	for distance := range uint16(64) {
		r.Interrupts()
		used := r.UsedIdx()
		r.SetUsedEvent(used + distance)
		for range distance + 1 {
			chain(header)(x.memory.Memory, r)
		}
		r.ForceKick()
		if !r.WaitInterrupt(patience) {
			h.t.Fatalf("no interrupt for the chain %d from here", distance)
		}
		if n := r.UsedIdx() - used; n != distance+1 {
			h.t.Fatalf("an interrupt after %d chains, not %d", n, distance+1)
		}
	}
}

// flip changes 32 bits of guest memory to and fro until stop, or the test's end.
func (x *ringTrial) flip(gpa uint64, values ...uint32) (stop func()) {
	var stopped atomic.Bool
	var wg sync.WaitGroup
	stop = func() { stopped.Store(true); wg.Wait() }
	x.t.Cleanup(stop)
	word := x.memory.Memory.Bytes(gpa, 4)
	wg.Go(func() {
		for !stopped.Load() {
			for _, v := range values {
				binary.LittleEndian.PutUint32(word, v)
			}
		}
	})
	return stop
}

// toctouHeader changes len, type and op while the device reads them. It goes by
// what it has copied: a packet is what it is at one moment, or is dropped.
func toctouHeader(h *host) {
	x := h.trial(tx)
	x.memory.Memory.Write(inRAM, x.wire(csm.OpRW, 0))
	const lenAt, typeAt = 24, 28
	room := uint32(1000)
	stop := x.flip(inRAM+lenAt, 0, 1, room, room+1, csm.MaxPayload, math.MaxUint32)
	stopOp := x.flip(inRAM+typeAt, 1|uint32(csm.OpRW)<<16, 1|uint32(csm.OpCreditRequest)<<16, 7|uint32(csm.OpRW)<<16, 1)
	arrived := background(func() int64 { n, _ := io.Copy(io.Discard, x.c); return n })
	x.memory.Tx().SetDesc(last, at(inRAM, csm.HeaderSize+room))
	sent := int64(0)
	for range 20 {
		if !x.flood(last) {
			h.t.Error("the ring broke")
		}
		sent += hundred
	}
	stop()
	stopOp()
	h.mustIdle()
	x.frontend.Close()
	if n := arrived(); n > sent*int64(room) {
		h.t.Errorf("%d bytes arrived from %d packets with room for %d each", n, sent, room)
	}
}

// toctouDescriptor changes a descriptor while the device walks it. The ring may
// break, by what it says at one moment.
func toctouDescriptor(h *host) {
	const lenAt, flagsAt = 8, 12
	for word, values := range map[uint64][]uint32{
		0:       {inRAM, inRAM + 1, 1, math.MaxUint32},
		4:       {0, 1, math.MaxUint32},
		lenAt:   {0, 15, 16, csm.HeaderSize, csm.MaxPayload, math.MaxUint32},
		flagsAt: {0, next | last<<16, next | size<<16, written, refers, refers | next},
	} {
		x := h.trial(tx)
		x.memory.Tx().SetDesc(last, header)
		stop := x.flip(x.memory.Tx().Config().Desc+16*last+word, values...)
		for range 5 {
			if !x.flood(last) {
				break
			}
		}
		stop()
		x.frontend.Barrier()
		h.mustIdle()
		x.frontend.Close()
	}
}

const hundred = 100

// flood posts one chain a hundred times and waits until the device is done with
// all of them, or has given up on the ring.
func (x *ringTrial) flood(head uint16) (done bool) {
	x.t.Helper()
	r, errors := x.memory.Tx(), x.host.metric("ring_errors_total")
	for range hundred {
		r.Post(head)
	}
	r.ForceKick()
	used := 0
	vm.Eventually(x.t, patience, "the device is done", func() bool {
		for ok := true; ok; {
			if _, ok = r.Used(); ok {
				used++
			}
		}
		for ok := true; ok; { // answers, of which it keeps so many only
			_, ok = x.driver.TryRecv()
		}
		return used == hundred || x.host.metric("ring_errors_total") > errors
	})
	return used == hundred
}

// overlaps has the device write packets over the ring that it takes buffers from,
// and read packets out of it.
func overlaps(h *host) {
	for _, part := range []func(virtqueue.Config) uint64{
		func(c virtqueue.Config) uint64 { return c.Desc },
		func(c virtqueue.Config) uint64 { return c.Avail },
		func(c virtqueue.Config) uint64 { return c.Used },
	} {
		for ring := range 2 {
			x := h.trial(ring)
			r := x.memory.Rings[ring]
			buffer := at(part(r.Config()), page)
			if ring == rx {
				buffer.Flags = written
			}
			chain(buffer)(x.memory.Memory, r)
			r.ForceKick()
			mustWrite(h.t, x.c, bytesOf(64*kib))
			x.frontend.Barrier()
			h.mustIdle()
			x.frontend.Close()
		}
	}
}

// ringsAt runs a guest whose rings lie in these places.
func (h *host) ringsAt(place func(ring uint64) virtqueuetest.Options) {
	h.t.Helper()
	b := h.plug(h.t, vhostusertest.QEMU10, vhostusertest.GuestOptions{})
	for i := range uint64(2) {
		o := place(i)
		o.Size = size
		b.memory.Rings = append(b.memory.Rings, virtqueuetest.NewRing(h.t, b.memory.Memory, o))
	}
	b.start()
	b.mustWork(64 * kib)
	b.powerOff()
	b.peer.Shutdown()
}

package tests

import (
	"io"
	"math"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

// What a frontend sends on a session whose guest is at work.
func TestAdversarialMessages(t *testing.T) {
	t.Parallel()
	confront(t, newHost(t), messageInputs)
}

// message is the bytes and the descriptors of a message.
type message struct {
	request vhostuser.Request
	payload []byte
	fds     []func(testing.TB) int
}

func msg(request vhostuser.Request, payload []byte, fds ...func(testing.TB) int) message {
	return message{request, payload, fds}
}

// ack sends the message with NEED_REPLY and returns the acknowledgement.
func (m message) ack(b *board) uint64 {
	b.t.Helper()
	return b.frontend.Ack(m.request, m.payload, m.open(b)...)
}

// open makes the descriptors to send. They end with the test, at the latest.
func (m message) open(b *board) (fds []int) {
	for _, open := range m.fds {
		fds = append(fds, open(b.t))
	}
	return fds
}

// mustWorkAsBefore wants a connection to carry bytes, and further ones.
func (b *board) mustWorkAsBefore(g guestConn, c io.Reader) {
	b.t.Helper()
	mustWrite(b.t, g, []byte("as well as before"))
	mustReadJust(b.t, c, []byte("as well as before"))
	b.mustWork(kib)
	b.host.mustIdle()
}

// harmless is an input that leaves the guest as well as before.
func harmless(name string, send func(*board)) input {
	return input{name, func(h *host) {
		b := h.boot(h.t)
		g, c := b.dial()
		send(b)
		b.mustWorkAsBefore(g, c)
		b.powerOff()
	}}
}

// closes is an input that ends the session.
func closes(name string, send func(*board)) input {
	return input{name, func(h *host) {
		b := h.boot(h.t)
		_, c := b.dial()
		send(b)
		b.frontend.WaitClosed()
		mustEndAt(h.t, c)
		b.powerOff()
	}}
}

// refused is messages that are acknowledged as failed and change nothing. The last
// of them ends the session when it cannot be acknowledged.
func refused(name string, messages ...message) input {
	return input{name, func(h *host) {
		b := h.boot(h.t)
		g, c := b.dial()
		for _, m := range messages {
			if m.ack(b) == 0 {
				b.t.Errorf("%v 0x%x: acknowledged with success", m.request, m.payload)
			}
		}
		b.mustWorkAsBefore(g, c)
		m := messages[len(messages)-1]
		b.frontend.TryWrite(vhostusertest.Message(m.request, 0, m.payload), m.open(b)...)
		b.frontend.WaitClosed()
		mustEndAt(h.t, c)
		b.powerOff()
	}}
}

// accepted is messages that are acknowledged with success and harm nobody.
func accepted(name string, messages ...message) input {
	return harmless(name, func(b *board) {
		b.t.Helper()
		for _, m := range messages {
			if code := m.ack(b); code != 0 {
				b.t.Errorf("%v 0x%x: failed with %d", m.request, m.payload, code)
			}
		}
	})
}

// either is messages that may be refused or not, as long as they harm nobody.
func either(name string, messages ...message) input {
	return harmless(name, func(b *board) {
		for _, m := range messages {
			m.ack(b)
		}
	})
}

// raw sends a message of which nothing has to be right.
func raw(request vhostuser.Request, flags vhostuser.Flags, size uint32, payload []byte, fds ...func(testing.TB) int) func(*board) {
	return func(b *board) {
		header := vhostuser.Header{Request: request, Flags: flags, Size: size}
		b.frontend.TryWrite(append(header.AppendTo(nil), payload...), msg(request, nil, fds...).open(b)...)
	}
}

const page = 4096

var (
	state = vhostusertest.State
	u64   = vhostusertest.U64
)

func table(regions ...guestmem.Region) []byte { return vhostuser.MemRegions(regions).AppendTo(nil) }

func single(r guestmem.Region) []byte { return vhostuser.SingleMemRegion(r).AppendTo(nil) }

func addresses(a vhostuser.VringAddr) []byte { return a.AppendTo(nil) }

func space(offset, size uint32, room int) []byte {
	return append(vhostuser.ConfigSpace{Offset: offset, Size: size}.AppendTo(nil), make([]byte, room)...)
}

// elsewhere is a region far from all that a guest has.
var elsewhere = guestmem.Region{GuestAddr: 1 << 40, Size: page, UserAddr: 1 << 41}

// event is a ring that QEMU leaves alone, so that it can be set up in any way.
const event = vhostusertest.EventIndex

// ringParts are places for a ring of 128 entries that is laid out well.
var ringParts = vhostuser.VringAddr{
	Index: event,
	Desc:  virtqueuetest.UserAddr(inRAM),
	Avail: virtqueuetest.UserAddr(inRAM + page),
	Used:  virtqueuetest.UserAddr(inRAM + 2*page),
}

// placed returns ringParts with some of them elsewhere.
func placed(edit func(*vhostuser.VringAddr)) message {
	a := ringParts
	edit(&a)
	return msg(vhostuser.MsgSetVringAddr, addresses(a))
}

// aboutRing has every message that names a ring and has no reply of its own.
func aboutRing(index uint32) []message {
	a := ringParts
	a.Index = index
	return []message{
		msg(vhostuser.MsgSetVringNum, state(index, 128)),
		msg(vhostuser.MsgSetVringAddr, addresses(a)),
		msg(vhostuser.MsgSetVringBase, state(index, 0)),
		msg(vhostuser.MsgSetVringEnable, state(index, 1)),
		msg(vhostuser.MsgSetVringCall, u64(uint64(index)), anEventfd),
		msg(vhostuser.MsgSetVringErr, u64(uint64(index)), anEventfd),
		msg(vhostuser.MsgSetVringKick, u64(uint64(index)), anEventfd),
	}
}

// ramEnd is where the guest's memory ends.
var ramEnd = ram[0].GuestAddr + ram[0].Size

var (
	last16 = virtqueuetest.UserAddr(ramEnd - 16)
	top    = uint64(math.MaxUint64 - page + 1) // the last page of all
)

var messageInputs = []input{
	{"1 short-header", func(h *host) {
		b := h.boot(h.t)
		_, c := b.dial()
		raw(vhostuser.MsgGetFeatures, 1, 0, nil)(b)
		b.frontend.Reply(vhostuser.MsgGetFeatures)
		b.frontend.Write(getFeatures[:5])
		b.frontend.CloseWrite()
		b.frontend.WaitClosed()
		mustEndAt(h.t, c)
		b.powerOff()
	}},
	{"1 short-header, first of all", func(h *host) {
		f := h.frontend(h.t)
		f.Write(getFeatures[:5])
		f.CloseWrite()
		f.WaitClosed()
	}},
	{"3 huge-size", func(h *host) {
		before := h.status("VmSize")
		closes("", raw(vhostuser.MsgGetFeatures, 1, math.MaxUint32, nil)).do(h)
		if after := h.status("VmSize"); after > before+512*mib {
			h.t.Errorf("%d MiB of addresses before, %d after", before/mib, after/mib)
		}
	}},
	closes("4 size-4097", raw(vhostuser.MsgGetFeatures, 1, 4097, make([]byte, 4097))),
	closes("5 size-on-empty", raw(vhostuser.MsgGetFeatures, 1, 8, make([]byte, 8))),
	refused("6 truncated-payload", msg(vhostuser.MsgSetVringAddr, make([]byte, 39))),
	refused("7 oversized-payload", msg(vhostuser.MsgSetVringNum, make([]byte, 16))),
	closes("8 version-0", raw(vhostuser.MsgGetFeatures, 0, 0, nil)),
	closes("8 version-2", raw(vhostuser.MsgGetFeatures, 2, 0, nil)),
	closes("9 reply-flag", raw(vhostuser.MsgGetFeatures, 5, 0, nil)),
	closes("10 reserved-flags", raw(vhostuser.MsgGetFeatures, 0x11, 0, nil)),
	refused("11 unknown-0", msg(0, nil)),
	refused("11 unknown-45", msg(45, make([]byte, 100))),
	refused("11 unknown-0xffffffff, with a descriptor", msg(math.MaxUint32, nil, aPage)),
	harmless("13 need-reply-on-get", func(b *board) {
		b.frontend.Ask(vhostuser.MsgGetFeatures, nil)
		b.frontend.Barrier() // fails if there is a second reply
	}),
	closes("14 fd-flood", func(b *board) {
		fds := make([]int, 253) // what one sendmsg takes
		b.frontend.TryWrite(vhostusertest.Message(vhostuser.MsgSetOwner, 0, nil), fds...)
	}),
	refused("15 fd-on-plain", msg(vhostuser.MsgSetOwner, nil, aPage)),
	closes("15 fd-on-plain, with a reply", raw(vhostuser.MsgGetFeatures, 1, 0, nil, aPage)),
	refused("16 memtable-fd-short", msg(vhostuser.MsgSetMemTable, table(elsewhere, elsewhere), aPage)),
	refused("16 memtable-fd-long", msg(vhostuser.MsgSetMemTable, table(elsewhere), aPage, aPage, aPage)),
	refused("17 memtable-num-huge", msg(vhostuser.MsgSetMemTable, u64(math.MaxUint32))),
	harmless("18 memtable-num-0", func(b *board) {
		if msg(vhostuser.MsgSetMemTable, table()).ack(b) != 0 {
			b.t.Error("an empty table is refused")
		}
		starts := b.host.metric("ring_starts_total")
		b.frontend.SetMemTable(b.memory.Regions(), b.memory.Fds(), 0)
		b.host.await(starts+2, "ring_starts_total") // so they did not run without
	}),
	refused("19 region-zero-size",
		msg(vhostuser.MsgAddMemReg, single(guestmem.Region{GuestAddr: 1 << 40, UserAddr: 1 << 41}), aPage),
		msg(vhostuser.MsgSetMemTable, table(guestmem.Region{GuestAddr: page}), aPage)),
	refused("20 region-gpa-overflow",
		msg(vhostuser.MsgAddMemReg, single(guestmem.Region{GuestAddr: top, Size: 2 * page, UserAddr: 1 << 41}), twoPages),
		msg(vhostuser.MsgSetMemTable, table(guestmem.Region{GuestAddr: top, Size: 2 * page}), twoPages)),
	refused("21 region-uaddr-overflow",
		msg(vhostuser.MsgAddMemReg, single(guestmem.Region{GuestAddr: 1 << 40, Size: 2 * page, UserAddr: top}), twoPages),
		msg(vhostuser.MsgSetMemTable, table(guestmem.Region{Size: 2 * page, UserAddr: top}), twoPages)),
	refused("22 region-off-overflow",
		msg(vhostuser.MsgAddMemReg, single(guestmem.Region{GuestAddr: 1 << 40, Size: page, UserAddr: 1 << 41, Offset: top}), aPage),
		msg(vhostuser.MsgSetMemTable, table(guestmem.Region{Size: page, Offset: math.MaxInt64 - page + 1}), aPage),
		msg(vhostuser.MsgSetMemTable, table(guestmem.Region{Size: page, Offset: top}), aPage)),
	refused("23 region-overlap-gpa",
		msg(vhostuser.MsgAddMemReg, single(guestmem.Region{GuestAddr: ramEnd - page, Size: page, UserAddr: 1 << 41}), aPage),
		msg(vhostuser.MsgAddMemReg, single(guestmem.Region{GuestAddr: 1 << 40, Size: page, UserAddr: virtqueuetest.UserAddr(inRAM)}), aPage),
		msg(vhostuser.MsgSetMemTable, table(elsewhere, guestmem.Region{GuestAddr: 1 << 40, Size: page, UserAddr: 1 << 42}), aPage, aPage)),
	refused("24 region-fd-short", msg(vhostuser.MsgSetMemTable, table(guestmem.Region{Size: 1 << 30}), aPage)),
	refused("26 region-fd-wrong-type",
		msg(vhostuser.MsgSetMemTable, table(elsewhere), deadPipe),
		msg(vhostuser.MsgSetMemTable, table(elsewhere), anEventfd),
		msg(vhostuser.MsgSetMemTable, table(elsewhere), anEpoll),
		msg(vhostuser.MsgSetMemTable, table(elsewhere), fullSocket),
		msg(vhostuser.MsgSetMemTable, table(elsewhere), opened("/dev/null")),
		msg(vhostuser.MsgSetMemTable, table(elsewhere), opened("/"))),
	refused("28 vring-index-3", aboutRing(3)...),
	refused("28 vring-index-255", aboutRing(255)...),
	refused("28 vring-index-2^32-1", aboutRing(math.MaxUint32)...),
	closes("28 vring-index-3, GET_VRING_BASE", raw(vhostuser.MsgGetVringBase, 1, 8, state(3, 0))),
	closes("28 vring-index-2^32-1, GET_VRING_BASE", raw(vhostuser.MsgGetVringBase, 9, 8, state(math.MaxUint32, 0))),
	refused("29 num-0", msg(vhostuser.MsgSetVringNum, state(event, 0))),
	refused("29 num-3", msg(vhostuser.MsgSetVringNum, state(event, 3))),
	refused("29 num-32769", msg(vhostuser.MsgSetVringNum, state(event, 32769))),
	refused("29 num-65536", msg(vhostuser.MsgSetVringNum, state(event, 65536))),
	refused("30 addr-unmapped",
		placed(func(a *vhostuser.VringAddr) { a.Desc = page }),
		placed(func(a *vhostuser.VringAddr) { a.Avail = 0 }),
		placed(func(a *vhostuser.VringAddr) { a.Used = inRAM })), // a guest's address is none of the frontend's
	refused("30 addr-misaligned",
		placed(func(a *vhostuser.VringAddr) { a.Desc += 8 }),
		placed(func(a *vhostuser.VringAddr) { a.Avail++ }),
		placed(func(a *vhostuser.VringAddr) { a.Used += 2 })),
	{"30 addr-straddles-end", func(h *host) {
		b := h.boot(h.t)
		b.frontend.SetVringNum(event, size)
		for _, m := range straddling {
			if m.ack(b) == 0 {
				h.t.Errorf("0x%x: acknowledged with success", m.payload)
			}
		}
		b.mustWork(kib)
		b.powerOff()
	}},
	{"30 addr-straddles-end, by a size that comes later", func(h *host) {
		b := h.boot(h.t)
		starts := h.metric("ring_starts_total", `queue="event"`)
		placed(func(a *vhostuser.VringAddr) { a.Desc = last16 }).ack(b)
		b.frontend.SetVringNum(event, size)
		b.frontend.SetVringKick(event, anEventfd(h.t))
		b.frontend.SetVringEnable(event, true)
		b.mustWork(kib)
		if n := h.metric("ring_starts_total", `queue="event"`); n != starts {
			h.t.Error("a ring runs that is not in memory")
		}
		b.powerOff()
	}},
	refused("32 addr-flags-0xffffffff", placed(func(a *vhostuser.VringAddr) { a.Flags = math.MaxUint32 })),
	refused("33 base-65536+", msg(vhostuser.MsgSetVringBase, state(event, 65536)), msg(vhostuser.MsgSetVringBase, state(event, math.MaxUint32))),
	kick("34 kick-fd-closed-peer", deadPipe),
	kick("35 kick-fd = regular file", aPage),
	kick("35 kick-fd = socket", fullSocket),
	kick("35 kick-fd = socket at its end", deadSocket),
	kick("35 kick-fd = listening socket", aListener),
	kick("35 kick-fd = epoll", anEpoll),
	kick("35 kick-fd = ready epoll", readyEpoll),
	kick("35 kick-fd = semaphore that never ends", semaphore),
	kick("35 kick-fd = timer", aTimer),
	kick("35 kick-fd = directory", opened("/")),
	kick("35 kick-fd = device", opened("/dev/zero")),
	call("36 call-fd = full socket", fullSocket),
	call("36 call-fd = full pipe", fullPipe),
	call("36 call-fd = pipe without a reader", brokenPipe),
	call("36 call-fd = full eventfd", fullEventfd),
	call("36 call-fd = read-only", opened("/dev/null")),
	call("36 call-fd = read end of a pipe", deadPipe),
	errFd("37 err-fd bogus, a directory", opened("/")),
	errFd("37 err-fd bogus, read-only", deadPipe),
	errFd("37 err-fd bogus, full", fullPipe),
	errFd("37 err-fd bogus, nobody reads", brokenPipe),
	either("38 kick bit8 + fd", msg(vhostuser.MsgSetVringKick, u64(event|1<<8), anEventfd)),
	refused("38 bit8=0 no fd",
		msg(vhostuser.MsgSetVringCall, u64(event)), msg(vhostuser.MsgSetVringErr, u64(event)), msg(vhostuser.MsgSetVringKick, u64(event))),
	refused("38 bits 9+ set",
		msg(vhostuser.MsgSetVringKick, u64(event|1<<63), anEventfd), msg(vhostuser.MsgSetVringKick, u64(event|1<<9), anEventfd)),
	refused("39 enable-2", msg(vhostuser.MsgSetVringEnable, state(event, 2)), msg(vhostuser.MsgSetVringEnable, state(event, math.MaxUint32))),
	harmless("40 get-base-never-started", func(b *board) {
		b.frontend.SetVringBase(event, 77)
		for range 2 {
			if n := b.frontend.GetVringBase(event); n != 77 {
				b.t.Errorf("base %d, not the 77 that it was given", n)
			}
		}
	}),
	harmless("40 get-base-twice", func(b *board) {
		first, second := b.frontend.GetVringBase(tx), b.frontend.GetVringBase(tx)
		if first != second {
			b.t.Errorf("base %d at first, then %d", first, second)
		}
		b.peer.Stop()
		b.peer.Resume()
	}),
	harmless("41 get-base-num-nonzero", func(b *board) {
		b.frontend.Tell(vhostuser.MsgGetVringBase, state(event, math.MaxUint32))
		b.frontend.Reply(vhostuser.MsgGetVringBase)
	}),
	refused("43 set-features-no-version1", msg(vhostuser.MsgSetFeatures, u64(0)), msg(vhostuser.MsgSetFeatures, u64(math.MaxUint64&^(1<<32)))),
	refused("44 proto-unoffered bits", msg(vhostuser.MsgSetProtocolFeatures, u64(math.MaxUint64)), msg(vhostuser.MsgSetProtocolFeatures, u64(1<<17))),
	refused("45 proto-inband-alone", msg(vhostuser.MsgSetProtocolFeatures, u64(1<<14))),
	harmless("46 proto-change-while-running", func(b *board) {
		b.frontend.Tell(vhostuser.MsgSetProtocolFeatures, u64(0))
		b.frontend.Barrier()
		b.frontend.SetProtocolFeatures(b.frontend.GetProtocolFeatures())
	}),
	{"47 message-flood", func(h *host) {
		const flood = 200_000 // and not a descriptor more is open behind it
		b := h.boot(h.t)
		g, c := b.dial()
		fd, files := anEventfd(h.t), h.descriptors()
		m := vhostusertest.Message(vhostuser.MsgSetVringCall, 0, u64(event))
		for i := range flood {
			b.frontend.Write(m, fd)
			if i == flood/2 {
				if n := h.descriptors(); n > files+64 {
					h.t.Errorf("%d descriptors in the middle of it, %d before", n, files)
				}
			}
		}
		b.frontend.Barrier()
		b.mustWorkAsBefore(g, c)
		b.powerOff()
	}},
	closes("48 log-base size 0", logBase(0, 0)),
	closes("48 log-base size of everything", logBase(math.MaxUint64, 0)),
	closes("48 log-base off beyond", logBase(page, page)),
	closes("48 log-base off + size overflow", logBase(page, math.MaxUint64-page+1)),
	closes("48 log-base fd short", logBase(page+1, 0)),
	closes("48 log-base fd missing", raw(vhostuser.MsgSetLogBase, 1, 16, make([]byte, 16))),
	harmless("48 log-base off unaligned", func(b *board) {
		b.frontend.SetLogBase(vhostusertest.NewDirtyLog(b.t, 4*page, 100))
	}),
	harmless("50 config off 0xffffffff size 0xffffffff", config(math.MaxUint32, math.MaxUint32, 0, nil)),
	harmless("50 config off 4 size 8", config(4, 8, 8, make([]byte, 8))),
	harmless("50 config size 0", config(0, 0, 0, nil)),
	harmless("50 config payload missing", config(0, 8, 0, nil)),
	harmless("50 config payload too long", config(0, 8, 16, nil)),
	harmless("50 config off 4090 size 8", config(4090, 8, 8, nil)),
	harmless("51 set-config cid overwrite", func(b *board) {
		before := b.frontend.GetConfig(0, 8, 0)
		b.frontend.SetConfig(0, 0, []byte{9, 9, 9, 9, 9, 9, 9, 9})
		b.frontend.SetConfig(0, 1, []byte{9, 9, 9, 9, 9, 9, 9, 9})
		if after := b.frontend.GetConfig(0, 8, 0); string(after) != string(before) {
			b.t.Errorf("config space % x after it, % x before", after, before)
		}
	}),
	refused("51 set-config payload missing", msg(vhostuser.MsgSetConfig, space(0, 8, 0)), msg(vhostuser.MsgSetConfig, space(math.MaxUint32, math.MaxUint32, 0))),
	refused("53 rem-unknown-region", msg(vhostuser.MsgRemMemReg, single(elsewhere)), msg(vhostuser.MsgRemMemReg, single(elsewhere), aPage)),
	refused("53 add-duplicate", msg(vhostuser.MsgAddMemReg, single(guestmem.Region{
		GuestAddr: ram[0].GuestAddr, Size: page, UserAddr: virtqueuetest.UserAddr(ram[0].GuestAddr),
	}), aPage)),
	accepted("54 backend-req-fd that never reads", msg(vhostuser.MsgSetBackendReqFd, nil, fullSocket)),
	refused("54 backend-req-fd missing", msg(vhostuser.MsgSetBackendReqFd, nil)),
	refused("57 status-0 storm", slices.Repeat([]message{msg(39, u64(0))}, 256)...),
}

// straddling are rings of 128 entries whose parts begin in memory and end beyond.
var straddling = []message{
	placed(func(a *vhostuser.VringAddr) { a.Desc = last16 }),
	placed(func(a *vhostuser.VringAddr) { a.Avail = last16 }),
	placed(func(a *vhostuser.VringAddr) { a.Used = last16 }),
	placed(func(a *vhostuser.VringAddr) { a.Desc = top }),
	placed(func(a *vhostuser.VringAddr) { a.Avail = math.MaxUint64 - 1 }),
	placed(func(a *vhostuser.VringAddr) { a.Used = math.MaxUint64 - 3 }),
}

// logBase passes a page as the log.
func logBase(size, offset uint64) func(*board) {
	return raw(vhostuser.MsgSetLogBase, 1, 16, vhostuser.LogRegion{Size: size, Offset: offset}.AppendTo(nil), aPage)
}

// config asks for a part of the config space. Unless want is what it must be, the
// answer must be an empty one.
func config(offset, size uint32, room int, want []byte) func(*board) {
	return func(b *board) {
		b.t.Helper()
		b.frontend.Tell(vhostuser.MsgGetConfig, space(offset, size, room))
		reply := b.frontend.Reply(vhostuser.MsgGetConfig)
		head := vhostuser.ParseConfigSpace(reply)
		if int(head.Size) != len(want) || string(reply[12:]) != string(want) {
			b.t.Errorf("answered by %+v and % x", head, reply[12:])
		}
	}
}

// kick replaces the kick descriptor of the ring that the guest sends by. Whether it
// is refused or not, nothing spins, and the guest goes on once it has its own again.
func kick(name string, fd func(testing.TB) int) input {
	return harmless(name, func(b *board) {
		msg(vhostuser.MsgSetVringKick, u64(tx), fd).ack(b)
		b.host.mustIdle()
		b.frontend.SetVringKick(tx, b.memory.Tx().KickFd())
	})
}

// call replaces what the guest is interrupted by. The guest misses interrupts then,
// but nothing else once it has its own descriptors again.
func call(name string, fd func(testing.TB) int) input {
	return input{name, func(h *host) {
		b := h.boot(h.t)
		g, c := b.dial()
		for _, ring := range []uint64{rx, tx} {
			msg(vhostuser.MsgSetVringCall, u64(ring), fd).ack(b)
		}
		data := bytesOf(32 * kib)
		mustWrite(h.t, c, data)
		h.mustIdle()
		b.frontend.SetVringCall(rx, b.memory.Rx().CallFd())
		b.frontend.SetVringCall(tx, b.memory.Tx().CallFd())
		mustReadJust(h.t, g, data)
		b.mustWorkAsBefore(g, c)
		b.powerOff()
	}}
}

// errFd replaces what a broken ring is told by, and breaks one.
func errFd(name string, fd func(testing.TB) int) input {
	return input{name, func(h *host) {
		b := h.boot(h.t)
		_, c := b.dial()
		msg(vhostuser.MsgSetVringErr, u64(tx), fd).ack(b)
		b.powerOff()
		broken := h.metric("ring_errors_total")
		b.memory.Tx().Post(size)
		b.memory.Tx().ForceKick()
		h.await(broken+1, "ring_errors_total")
		b.frontend.Barrier()
		b.frontend.Close()
		mustEndAt(h.t, c)
	}}
}

// Descriptors to send, which end with the test.
var (
	aPage     = memory(page)
	twoPages  = memory(2 * page)
	anEventfd = file(func() (int, error) { return unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK) })
	anEpoll   = file(func() (int, error) { return unix.EpollCreate1(unix.EPOLL_CLOEXEC) })

	fullEventfd = file(func() (int, error) {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
		if err == nil {
			_, err = unix.Write(fd, []byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
		}
		return fd, err
	})
	semaphore = file(func() (int, error) {
		fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK|unix.EFD_SEMAPHORE)
		if err == nil {
			_, err = unix.Write(fd, []byte{0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
		}
		return fd, err
	})
	aTimer = file(func() (int, error) {
		fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_CLOEXEC|unix.TFD_NONBLOCK)
		if err == nil {
			tick := unix.NsecToTimespec(1)
			err = unix.TimerfdSettime(fd, 0, &unix.ItimerSpec{Interval: tick, Value: tick}, nil)
		}
		return fd, err
	})
	readyEpoll = func(t testing.TB) int {
		fd := anEpoll(t)
		if err := unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, deadPipe(t), &unix.EpollEvent{Events: unix.EPOLLIN}); err != nil {
			t.Fatal(err)
		}
		return fd
	}
	aListener = file(func() (int, error) {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err == nil {
			err = unix.Bind(fd, &unix.SockaddrUnix{})
		}
		if err == nil {
			err = unix.Listen(fd, 1)
		}
		return fd, err
	})

	deadPipe = file(func() (int, error) {
		r, w, err := pipe()
		unix.Close(w)
		return r, err
	})
	brokenPipe = file(func() (int, error) {
		r, w, err := pipe()
		unix.Close(r)
		return w, err
	})
	anEmptyPipe = func(t testing.TB) int {
		r, w := pipeOf(t)
		t.Cleanup(func() { unix.Close(r); unix.Close(w) })
		return r
	}
	fullPipe = func(t testing.TB) int {
		r, w := pipeOf(t)
		t.Cleanup(func() { unix.Close(r); unix.Close(w) })
		return fill(t, w)
	}
	deadSocket = file(func() (int, error) {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		unix.Close(pair[1])
		return pair[0], err
	})
	fullSocket = func(t testing.TB) int {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(pair[0]); unix.Close(pair[1]) })
		return fill(t, pair[0])
	}
)

func pipe() (r, w int, err error) {
	var p [2]int
	err = unix.Pipe2(p[:], unix.O_CLOEXEC)
	return p[0], p[1], err
}

// fill writes to fd until it takes no more, and leaves it blocking.
func fill(t testing.TB, fd int) int {
	t.Helper()
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := unix.Write(fd, make([]byte, 4096)); err != nil {
			break
		}
	}
	if err := unix.SetNonblock(fd, false); err != nil {
		t.Fatal(err)
	}
	return fd
}

func memory(size int64) func(testing.TB) int {
	return file(func() (int, error) {
		fd, err := unix.MemfdCreate("hostile", unix.MFD_CLOEXEC)
		if err == nil {
			err = unix.Ftruncate(fd, size)
		}
		return fd, err
	})
}

func opened(path string) func(testing.TB) int {
	return file(func() (int, error) { return unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
}

func file(make func() (int, error)) func(testing.TB) int {
	return func(t testing.TB) int {
		fd, err := make()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		return fd
	}
}

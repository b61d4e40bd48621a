package tests

import (
	"io"
	"math"
	"net"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/virtqueue/virtqueuetest"
)

// Packets that break the rules, beside a connection that must not notice.
func TestAdversarialPackets(t *testing.T) {
	t.Parallel()
	confront(t, newHost(t), packetInputs)
}

// What a guest does to its own connections, and floods.
func TestAdversarialConnections(t *testing.T) {
	t.Parallel()
	confront(t, newHost(t), connectionInputs)
}

// Guests and programs that never answer, as long as it takes to give them up.
func TestAdversarialSilence(t *testing.T) {
	t.Parallel()
	confront(t, newHost(t), silenceInputs)
}

// talk is a driver with connections to one port of the host.
type talk struct {
	*board
	driver *muxertest.Driver
	port   uint32 // the host's
	l      *net.UnixListener
}

func (h *host) talk(o muxertest.Options) *talk {
	h.t.Helper()
	b, d := h.bare(h.t, o)
	port, l := b.listen()
	return &talk{board: b, driver: d, port: port, l: l}
}

func (k *talk) header(guestPort uint32, op csm.Op) csm.Header {
	return k.driver.Header(guestPort, k.port, op)
}

// open opens a connection from a port of the guest.
func (k *talk) open(guestPort uint32) *net.UnixConn {
	k.t.Helper()
	k.driver.Send(k.header(guestPort, csm.OpRequest), nil)
	k.driver.ExpectFor(guestPort, k.port, csm.OpResponse)
	return acceptFrom(k.t, k.l)
}

// mustCarry wants bytes of the guest to arrive at c.
func (k *talk) mustCarry(guestPort uint32, c io.Reader) {
	k.t.Helper()
	k.driver.Send(k.header(guestPort, csm.OpRW), []byte("unharmed"))
	mustReadJust(k.t, c, []byte("unharmed"))
}

// packet is an input of one packet. It is answered by RST, or by nothing.
func packet(name string, resets bool, payload int, edit func(h *csm.Header)) input {
	return input{name, func(h *host) {
		k := h.talk(muxertest.Options{})
		c := k.open(lastWordsPort)
		header := k.header(5000, csm.OpRW)
		edit(&header)
		k.driver.Send(header, bytesOf(payload))
		answers := k.driver.Barrier()
		switch {
		case !resets && len(answers) > 0:
			h.t.Errorf("answered by %v", answers)
		case resets && (len(answers) != 1 || !answersTo(answers[0].Header, header)):
			h.t.Errorf("answered by %v, not by one RST", answers)
		}
		k.mustCarry(lastWordsPort, c)
	}}
}

// answersTo reports whether a packet is the RST that another is due.
func answersTo(rst, h csm.Header) bool {
	return rst.Op == csm.OpRST && rst.Type == h.Type && rst.SrcCID == h.DstCID && rst.SrcPort == h.DstPort && rst.DstPort == h.SrcPort
}

const (
	dropsIt  = false
	resetsIt = true
)

// op makes a packet of another operation.
func op(o csm.Op) func(*csm.Header) { return func(h *csm.Header) { h.Op = o } }

// request makes it a REQUEST with something else wrong.
func request(edit func(*csm.Header)) func(*csm.Header) {
	return func(h *csm.Header) {
		h.Op = csm.OpRequest
		edit(h)
	}
}

var packetInputs = []input{
	{"74 hdr-short tx 0..43 bytes", func(h *host) {
		k := h.talk(muxertest.Options{})
		c := k.open(lastWordsPort)
		dropped := h.metric("dropped_packets_total", `reason="short"`)
		for n := range csm.HeaderSize {
			k.driver.SendBytes(bytesOf(n))
		}
		if answers := k.driver.Barrier(); len(answers) > 0 {
			h.t.Errorf("answered by %v", answers)
		}
		h.await(dropped+csm.HeaderSize, "dropped_packets_total", `reason="short"`)
		k.mustCarry(lastWordsPort, c)
	}},
	packet("75 len>chain", dropsIt, 10, func(h *csm.Header) { h.Len = 1000 }),
	packet("75 len 65537", dropsIt, 65537, func(h *csm.Header) { h.Len = 65537 }),
	packet("75 len 2^32-1", dropsIt, 10, func(h *csm.Header) { h.Len = math.MaxUint32 }),
	packet("76 type 0", resetsIt, 0, func(h *csm.Header) { h.Type = 0 }),
	packet("76 type 3", resetsIt, 0, request(func(h *csm.Header) { h.Type = 3 })),
	packet("76 type 65535", resetsIt, 0, func(h *csm.Header) { h.Type = math.MaxUint16 }),
	packet("76 RST with bad type", dropsIt, 0, func(h *csm.Header) { h.Type, h.Op = 3, csm.OpRST }),
	packet("77 op 0, unknown flow", resetsIt, 0, op(0)),
	packet("77 op 8, unknown flow", resetsIt, 0, op(8)),
	packet("77 op 65535, unknown flow", resetsIt, 0, op(math.MaxUint16)),
	packet("78 src_cid 0", dropsIt, 0, request(func(h *csm.Header) { h.SrcCID = 0 })),
	packet("78 src_cid 2", dropsIt, 0, request(func(h *csm.Header) { h.SrcCID = csm.HostCID })),
	packet("78 src_cid other", dropsIt, 0, request(func(h *csm.Header) { h.SrcCID = 77 })),
	packet("78 src_cid guest|1<<32", dropsIt, 0, request(func(h *csm.Header) { h.SrcCID |= 1 << 32 })),
	packet("78 src_cid other, on a flow of ours", dropsIt, 10, func(h *csm.Header) { h.SrcCID, h.SrcPort = 77, lastWordsPort }),
	packet("79 dst_cid self", resetsIt, 0, request(func(h *csm.Header) { h.DstCID = h.SrcCID })),
	packet("79 dst_cid unknown", resetsIt, 0, request(func(h *csm.Header) { h.DstCID = 4711 })),
	packet("79 dst_cid 0", resetsIt, 0, request(func(h *csm.Header) { h.DstCID = 0 })),
	packet("79 dst_cid 1", resetsIt, 0, request(func(h *csm.Header) { h.DstCID = 1 })),
	packet("79 dst_cid ANY", resetsIt, 0, request(func(h *csm.Header) { h.DstCID = math.MaxUint32 })),
	packet("79 dst_cid 2^32+2", resetsIt, 0, request(func(h *csm.Header) { h.DstCID |= 1 << 32 })),
	packet("79 dst_cid unknown, on a flow of ours", resetsIt, 10, func(h *csm.Header) { h.DstCID, h.SrcPort = 4711, lastWordsPort }),
	packet("80 RW w/o connection", resetsIt, 10, op(csm.OpRW)),
	packet("80 SHUTDOWN w/o connection", resetsIt, 0, func(h *csm.Header) { h.Op, h.Flags = csm.OpShutdown, math.MaxUint32 }),
	packet("80 CREDIT_UPDATE w/o connection", resetsIt, 0, op(csm.OpCreditUpdate)),
	packet("80 CREDIT_REQUEST w/o connection", resetsIt, 0, op(csm.OpCreditRequest)),
	packet("81 RESPONSE unsolicited", resetsIt, 0, op(csm.OpResponse)),
	packet("82 RST w/o connection", dropsIt, 0, op(csm.OpRST)),
	packet("91 seqpacket without feature", resetsIt, 0, request(func(h *csm.Header) { h.Type = csm.TypeSeqpacket })),
	packet("96 type mismatch on a flow", resetsIt, 10, func(h *csm.Header) { h.SrcPort, h.Type = lastWordsPort, csm.TypeSeqpacket }),
	packet("96 type mismatch on a flow, RST", dropsIt, 0, func(h *csm.Header) { h.SrcPort, h.Type, h.Op = lastWordsPort, csm.TypeSeqpacket, csm.OpRST }),
	packet("98 port 0 as dst", resetsIt, 0, request(func(h *csm.Header) { h.DstPort = 0 })),
	packet("98 port 0xffffffff as dst", resetsIt, 0, request(func(h *csm.Header) { h.DstPort = math.MaxUint32 })),
	{"98 ports 0 and 0xffffffff as src", func(h *host) {
		k := h.talk(muxertest.Options{})
		for _, port := range []uint32{0, math.MaxUint32} {
			k.mustCarry(port, k.open(port))
		}
	}},
	packet("99 sibling spoof", dropsIt, 0, request(func(h *csm.Header) { h.SrcCID, h.SrcPort = vm.GuestCID+1, lastWordsPort })),
	packet("99 sibling spoof, RST on a flow of ours", dropsIt, 0, func(h *csm.Header) { h.SrcCID, h.SrcPort, h.Op = vm.GuestCID+1, lastWordsPort, csm.OpRST }),
}

// violates breaks the rules on a connection: the program gets what was sent before
// and then end of file, the guest an RST, and a connection beside it goes on.
func violates(name string, do func(k *talk)) input {
	return input{name, func(h *host) {
		k := h.talk(muxertest.Options{})
		other, c := k.open(1), k.open(lastWordsPort)
		before := bytesOf(10 * kib)
		k.driver.Send(k.header(lastWordsPort, csm.OpRW), before)
		do(k)
		expectReset(h.t, k.driver)
		mustReadJust(h.t, c, before)
		if n, err := io.Copy(io.Discard, c); err != nil || n > 3*window { // a window of ours, and what the socket took, two at most
			h.t.Errorf("%d bytes more, %v", n, err)
		}
		k.mustCarry(1, other)
		h.mustIdle()
	}}
}

// lenient breaks the rules on a connection, which goes on all the same.
func lenient(name string, do func(k *talk)) input {
	return input{name, func(h *host) {
		k := h.talk(muxertest.Options{})
		c := k.open(lastWordsPort)
		do(k)
		k.mustCarry(lastWordsPort, c)
		h.mustIdle()
	}}
}

// sends sends a packet of a connection with something wrong.
func sends(payload int, edit func(*csm.Header)) func(*talk) {
	return func(k *talk) {
		h := k.header(lastWordsPort, csm.OpRW)
		edit(&h)
		k.driver.Send(h, bytesOf(payload))
	}
}

var connectionInputs = []input{
	violates("75 len>chain, on a flow", sends(10, func(h *csm.Header) { h.Len = 1000 })),
	violates("75 len 65537, on a flow", sends(65537, func(h *csm.Header) { h.Len = 65537 })),
	violates("75 len 2^32-1, on a flow", sends(10, func(h *csm.Header) { h.Len = math.MaxUint32 })),
	violates("77 op 0, known flow", sends(0, op(0))),
	violates("77 op 8, known flow", sends(0, op(8))),
	violates("77 op 65535, known flow", sends(0, op(math.MaxUint16))),
	lenient("81 RESPONSE unsolicited, known flow", sends(0, op(csm.OpResponse))),
	lenient("82 RST storm (1e6)", func(k *talk) {
		rst := k.header(6000, csm.OpRST)
		for range 1_000_000 {
			k.driver.Add(rst, nil)
		}
		if answers := k.driver.Barrier(); len(answers) > 0 {
			k.t.Errorf("answered by %d packets", len(answers))
		}
	}),
	{"83 REQUEST flood (2^16 ports)", requestFlood},
	violates("84 duplicate REQUEST same tuple, established", sends(0, op(csm.OpRequest))),
	{"84 duplicate REQUEST same tuple, connecting", func(h *host) {
		k := h.talk(muxertest.Options{})
		c := h.client(h.t, "CONNECT 52\n")
		p := k.driver.Expect(csm.OpRequest)
		k.driver.Send(k.driver.Header(52, p.SrcPort, csm.OpRequest), nil)
		k.driver.ExpectFor(52, p.SrcPort, csm.OpRST)
		mustEndAt(h.t, c)
	}},
	{"84 duplicate REQUEST same tuple, closing", func(h *host) {
		k := h.talk(muxertest.Options{})
		k.open(lastWordsPort).Close()
		k.driver.Expect(csm.OpShutdown)
		k.driver.Send(k.header(lastWordsPort, csm.OpRequest), nil)
		k.driver.ExpectFor(lastWordsPort, k.port, csm.OpRST)
		h.mustForget()
		k.mustCarry(lastWordsPort, k.open(lastWordsPort))
	}},
	{"84 duplicate REQUEST same tuple, over and over", func(h *host) {
		k := h.talk(muxertest.Options{})
		h.accepts(k.l)
		k.storm(1000, func(uint32) csm.Header { return k.header(lastWordsPort, csm.OpRequest) })
		k.driver.Barrier()
		if n := h.metric("connections"); n > 1 {
			h.t.Errorf("%d connections of one tuple", n)
		}
	}},
	violates("85 over-credit RW (buf_alloc+1)", func(k *talk) {
		for sent := 10 * kib; sent < window; { // which the program may have read by then, or not
			n := min(csm.MaxPayload, window-sent)
			k.driver.Send(k.header(lastWordsPort, csm.OpRW), bytesOf(n))
			sent += n
		}
		for range 32 {
			k.driver.Send(k.header(lastWordsPort, csm.OpRW), bytesOf(csm.MaxPayload))
		}
	}),
	credit("86 fwd_cnt ahead of tx_cnt", 64*kib, func(h *csm.Header) { h.FwdCnt += mib }, 64*kib),
	credit("86 fwd_cnt far ahead", 64*kib, func(h *csm.Header) { h.FwdCnt += 1 << 31 }, 64*kib),
	credit("86 fwd_cnt going backwards", 64*kib, func(h *csm.Header) { h.FwdCnt -= 1000 }, 64*kib),
	credit("86 buf_alloc 0", 0, func(*csm.Header) {}, 0),
	credit("86 buf_alloc shrink below in-flight", 64*kib, func(h *csm.Header) { h.BufAlloc = 1 }, 64*kib),
	credit("86 buf_alloc 0xffffffff, fwd_cnt of nothing", 64*kib, func(h *csm.Header) { h.BufAlloc = math.MaxUint32 }, mib),
	{"87 credit wrap: counters start 0xfffffff0", creditWrap},
	lenient("88 SHUTDOWN flags 0", sends(0, func(h *csm.Header) { h.Op, h.Flags = csm.OpShutdown, 0 })),
	lenient("88 SHUTDOWN flags 4", sends(0, func(h *csm.Header) { h.Op, h.Flags = csm.OpShutdown, 4 })),
	violates("88 SHUTDOWN flags 0xffffffff", sends(0, func(h *csm.Header) { h.Op, h.Flags = csm.OpShutdown, math.MaxUint32 })),
	violates("88 SHUTDOWN then RW", func(k *talk) {
		sends(0, func(h *csm.Header) { h.Op, h.Flags = csm.OpShutdown, csm.ShutdownSend })(k)
		sends(10, func(*csm.Header) {})(k)
	}),
	lenient("88 SHUTDOWN x1e6", func(k *talk) {
		h := k.header(lastWordsPort, csm.OpShutdown)
		h.Flags = csm.ShutdownRcv
		for range 1_000_000 {
			k.driver.Add(h, nil)
		}
		k.driver.Barrier()
	}),
	{"90 REQUEST then silence: host app never accepts", unread},
	{"91 seqpacket without feature, known port", func(h *host) {
		k := h.talk(muxertest.Options{})
		header := k.header(lastWordsPort, csm.OpRequest)
		header.Type = csm.TypeSeqpacket
		k.driver.Send(header, nil)
		if p := k.driver.Expect(csm.OpRST); p.Type != csm.TypeSeqpacket {
			h.t.Errorf("an RST of type %d", p.Type)
		}
	}},
	{"92 seqpacket endless message", func(h *host) {
		k, c := h.messages()
		part := k.message(csm.OpRW, 0)
		for range window / csm.MaxPayload {
			k.driver.Send(part, bytesOf(csm.MaxPayload))
		}
		expectReset(h.t, k.driver)
		mustEndAt(h.t, c)
		h.mustIdle()
		if n := h.metric("buffered_bytes"); n != 0 {
			h.t.Errorf("%d bytes of memory hold a message that is over", n)
		}
	}},
	{"92 seqpacket endless message, in packets of a byte", func(h *host) {
		k, c := h.messages()
		part := k.message(csm.OpRW, 0)
		resets := 0
		for range 4 * window / kib {
			for !k.driver.TryAdd(part, []byte{1}) {
				k.driver.Kick()
			}
		}
		k.driver.Kick()
		for _, p := range k.driver.Barrier() {
			if p.Op == csm.OpRST {
				resets++
			}
		}
		h.mustIdle()
		if n := h.metric("buffered_bytes"); n > window+16*kib {
			h.t.Errorf("%d bytes of memory for a message of %d", n, 4*window/kib)
		}
		k.frontend.Close()
		if resets == 0 {
			mustEndAt(h.t, c) // of an incomplete message nothing arrives
		}
	}},
	{"93 zero-length EOM flood", func(h *host) {
		k, c := h.messages()
		empty := k.message(csm.OpRW, endOfMessage)
		answers := k.storm(20_000, func(uint32) csm.Header { return empty })
		for _, p := range k.driver.Barrier() {
			answers[p.Op]++
		}
		if answers[csm.OpRST] == 0 {
			h.t.Error("20,000 messages wait for a program that does not read")
		}
		h.mustIdle()
		c.Close()
	}},
	lenient("93 zero-length RW stream flood", func(k *talk) {
		for range 100_000 {
			k.driver.Add(k.header(lastWordsPort, csm.OpRW), nil)
		}
		k.driver.Barrier()
		if n := k.host.metric("buffered_bytes"); n != 0 {
			k.t.Errorf("%d bytes of memory hold nothing", n)
		}
	}),
	{"94 EOM/EOR on stream", func(h *host) {
		k := h.talk(muxertest.Options{})
		c := k.open(lastWordsPort)
		for flags := range uint32(8) {
			header := k.header(lastWordsPort, csm.OpRW)
			header.Flags = flags
			k.driver.Send(header, []byte("bytes"))
			mustReadJust(h.t, c, []byte("bytes"))
		}
	}},
	{"95 CREDIT_REQUEST flood", func(h *host) {
		k := h.talk(muxertest.Options{Buffers: -1})
		k.driver.PostBuffers(1)
		c := k.open(lastWordsPort)
		for range 10_000 {
			k.driver.Add(k.header(lastWordsPort, csm.OpCreditRequest), nil)
		}
		k.driver.Kick()
		if !k.driver.WaitTx(patience) {
			h.t.Fatal("the tx ring waits for one reply")
		}
		k.driver.PostBuffers(64)
		k.driver.Expect(csm.OpCreditUpdate)
		if answers := k.driver.Barrier(); len(answers) > 0 {
			h.t.Errorf("answered by %d packets more", len(answers))
		}
		k.mustCarry(lastWordsPort, c)
	}},
	{"97 no rx buffers + tx flood needing replies", repliesWithoutBuffers},
	{"100 event ring: readable/short/odd-address buffers", eventBuffers},
	{"100 event ring: never refilled", func(h *host) {
		b, peer, d := h.eventRing()
		for range 3 { // each time its connections are lost behind its back
			peer.Reconnect(h.frontend(h.t))
			b.memory.Rings[event].ForceKick()
			h.mustIdle()
		}
		port, l := b.listen()
		d.Send(d.Header(lastWordsPort+1, port, csm.OpRequest), nil)
		d.Expect(csm.OpResponse)
		acceptFrom(h.t, l)
		peer.Frontend.Close()
	}},
}

// accepts accepts what comes and keeps it until the test ends.
func (h *host) accepts(l *net.UnixListener) {
	t := h.t
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.AcceptUnix()
			if err != nil {
				return
			}
			defer c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
}

// storm sends n packets and counts, by operation, what comes meanwhile: who takes no
// answers is not heard for long.
func (k *talk) storm(n uint32, packet func(i uint32) csm.Header) map[csm.Op]int {
	answers := make(map[csm.Op]int)
	for i := range n {
		for h := packet(i); !k.driver.TryAdd(h, nil); {
			k.driver.Kick()
			for p, ok := k.driver.TryRecv(); ok; p, ok = k.driver.TryRecv() {
				answers[p.Op]++
			}
		}
	}
	k.driver.Kick()
	return answers
}

// requestFlood has a guest ask for more connections than it may have.
func requestFlood(h *host) {
	const ports = 1 << 16
	k := h.talk(muxertest.Options{})
	h.accepts(k.l)
	files, limit := h.descriptors(), h.metric("connections_limit")
	answers := k.storm(ports, func(i uint32) csm.Header { return k.header(i, csm.OpRequest) })
	for answers[csm.OpResponse]+answers[csm.OpRST] < ports {
		p, ok := k.driver.Recv(patience)
		if !ok {
			h.t.Fatalf("%d REQUESTs were answered by %v", ports, answers)
		}
		answers[p.Op]++
	}
	if n := answers[csm.OpResponse]; n == 0 || n > limit {
		h.t.Errorf("%d connections of at most %d", n, limit)
	}
	if n := h.descriptors() - files; n > limit+64 {
		h.t.Errorf("%d descriptors for at most %d connections", n, limit)
	}
	h.mustIdle()
}

// credit lies about the guest's room once it is full. Not more than most bytes are
// sent then, and what is true is believed again.
func credit(name string, bufAlloc uint32, lie func(*csm.Header), most int) input {
	return input{name, func(h *host) {
		k := h.talk(muxertest.Options{BufAlloc: bufAlloc})
		stalls := h.metric("credit_stalls_total")
		header := k.header(lastWordsPort, csm.OpRequest)
		header.BufAlloc = bufAlloc
		k.driver.Send(header, nil)
		k.driver.Expect(csm.OpResponse)
		c := acceptFrom(h.t, k.l)
		data := bytesOf(mib)
		writing := background(func() error { _, err := c.Write(data); return err })
		vm.Eventually(h.t, patience, "the guest is full", func() bool { return h.metric("credit_stalls_total") > stalls })

		var got []byte
		take := func(packets ...muxertest.Packet) {
			for _, p := range packets {
				if p.Op == csm.OpRW {
					got = append(got, p.Payload...)
				}
			}
		}
		take(k.driver.Barrier()...)
		header.Op, header.FwdCnt = csm.OpCreditUpdate, 0
		lie(&header)
		k.driver.Send(header, nil)
		take(k.driver.Barrier()...)
		h.mustIdle()
		take(k.driver.Barrier()...)
		if len(got) > most {
			h.t.Errorf("%d bytes for a guest with room for %d", len(got), most)
		}
		k.readOn(&got, mib, 0)
		if err := writing(); err != nil || string(got) != string(data) {
			h.t.Errorf("what arrived is not what was sent; %v", err)
		}
		k.mustCarry(lastWordsPort, c)
	}}
}

// readOn reads until there are n bytes, and tells the truth about the guest's room
// but that the count of bytes began at first.
func (k *talk) readOn(got *[]byte, n int, first uint32) {
	k.t.Helper()
	h := k.header(lastWordsPort, csm.OpCreditUpdate)
	h.BufAlloc = 64 * kib
	for {
		h.FwdCnt = first + uint32(len(*got))
		k.driver.Send(h, nil)
		if len(*got) >= n {
			return
		}
		p, ok := k.driver.Recv(patience)
		if !ok {
			k.t.Fatalf("%d of %d bytes", len(*got), n)
		}
		if p.Op == csm.OpRW {
			*got = append(*got, p.Payload...)
		}
	}
}

// creditWrap has a guest whose count of bytes is about to wrap when it begins.
func creditWrap(h *host) {
	const first = 0xfffffff0
	k := h.talk(muxertest.Options{})
	header := k.header(lastWordsPort, csm.OpRequest)
	header.BufAlloc, header.FwdCnt = 64*kib, first
	k.driver.Send(header, nil)
	k.driver.Expect(csm.OpResponse)
	c := acceptFrom(h.t, k.l)
	data := bytesOf(mib)
	writing := background(func() error { _, err := c.Write(data); return err })
	var got []byte
	k.readOn(&got, mib, first)
	if err := writing(); err != nil || string(got) != string(data) {
		h.t.Errorf("what arrived is not what was sent; %v", err)
	}
}

// unread fills a connection that the host program never accepts. What it costs is
// bounded by what the guest was allowed.
func unread(h *host) {
	k := h.talk(muxertest.Options{})
	k.driver.Send(k.header(lastWordsPort, csm.OpRequest), nil)
	k.driver.Expect(csm.OpResponse)
	for sent, taken := 0, 0; sent-taken < window; {
		n := min(window-(sent-taken), csm.MaxPayload)
		k.driver.Send(k.header(lastWordsPort, csm.OpRW), bytesOf(n))
		sent += n
		h.mustIdle() // the socket has taken what it can, and the driver was told
		for p, ok := k.driver.TryRecv(); ok; p, ok = k.driver.TryRecv() {
			taken = int(p.FwdCnt)
		}
	}
	const granularity = 16 * kib // of the memory that holds it
	if n := h.metric("buffered_bytes"); n > window+granularity {
		h.t.Errorf("%d bytes of memory for %d allowed ones", n, window)
	}
	h.mustIdle()
	k.driver.Send(k.header(lastWordsPort, csm.OpRW), bytesOf(1))
	k.driver.ExpectFor(lastWordsPort, k.port, csm.OpRST)
}

// repliesWithoutBuffers sends what is owed an answer until no more is taken, and
// takes the answers only then.
func repliesWithoutBuffers(h *host) {
	k := h.talk(muxertest.Options{Buffers: -1})
	stalls := h.metric("ring_stalls_total", `reason="replies"`)
	sent := 0
	vm.Eventually(h.t, patience, "the ring is full", func() bool {
		for k.driver.TryAdd(k.header(uint32(sent), csm.OpRW), nil) {
			k.driver.Kick()
			sent++
		}
		return h.metric("ring_stalls_total", `reason="replies"`) > stalls && k.driver.InFlight() == size
	})
	h.mustIdle()
	seen := make(map[uint32]bool)
	for range sent {
		if k.driver.Posted() == 0 {
			k.driver.PostBuffers(64)
		}
		seen[k.driver.Expect(csm.OpRST).DstPort] = true
	}
	if len(seen) != sent {
		h.t.Errorf("%d packets, answers to %d", sent, len(seen))
	}
	if !k.driver.WaitTx(patience) {
		h.t.Error("the tx ring stands still")
	}
}

const (
	featureSeqpacket = 1 << 1 // VIRTIO_VSOCK_F_SEQPACKET
	endOfMessage     = 1      // VIRTIO_VSOCK_SEQ_EOM
)

// messages boots a driver with an open connection of messages.
func (h *host) messages() (*talk, *net.UnixConn) {
	h.t.Helper()
	b := h.plug(h.t, vhostusertest.QEMU10, vhostusertest.GuestOptions{
		Features: vhostuser.FeatureVersion1 | vhostuser.FeatureEventIdx | vhostuser.FeatureIndirectDesc | featureSeqpacket,
	})
	b.peer.Start()
	k := &talk{board: b, driver: b.driver(), port: newPort()}
	k.l = h.ListenSeqpacket(h.t, k.port)
	k.driver.Send(k.message(csm.OpRequest, 0), nil)
	k.driver.Expect(csm.OpResponse)
	return k, acceptFrom(h.t, k.l)
}

// message is a header of the connection of messages.
func (k *talk) message(op csm.Op, flags uint32) csm.Header {
	h := k.header(lastWordsPort, op)
	h.Type, h.Flags = csm.TypeSeqpacket, flags
	return h
}

// eventRing boots a driver that has an event ring without a buffer, and an open
// connection.
func (h *host) eventRing() (*board, *vhostusertest.CloudHypervisor, *muxertest.Driver) {
	h.t.Helper()
	b := h.plug(h.t, stateful, vhostusertest.GuestOptions{})
	b.peer.Start()
	d := muxertest.NewDriver(b.t, b.memory.Memory, b.memory.Rx(), b.memory.Tx(), b.options)
	port, l := b.listen()
	d.Send(d.Header(lastWordsPort, port, csm.OpRequest), nil)
	d.Expect(csm.OpResponse)
	acceptFrom(h.t, l)
	if !d.WaitTx(patience) {
		h.t.Fatal("the daemon keeps the REQUEST")
	}
	return b, b.peer.(*vhostusertest.CloudHypervisor), d
}

// eventBuffers posts event buffers of which only the last can take an event: those
// before come back empty.
func eventBuffers(h *host) {
	b, peer, _ := h.eventRing()
	r, mem := b.memory.Rings[event], b.memory.Memory
	unfit := []virtqueuetest.Segment{
		{Addr: inRAM, Len: 4},
		{Addr: inRAM, Len: 0, Write: true},
		{Addr: inRAM, Len: 1, Write: true},
		{Addr: inRAM, Len: 3, Write: true},
	}
	for _, s := range unfit {
		r.Add(s)
	}
	const odd = inRAM + page + 1
	copy(mem.Bytes(odd, 4), "xxxx")
	r.Add(virtqueuetest.Segment{Addr: odd, Len: 1, Write: true}, virtqueuetest.Segment{Addr: odd + 1, Len: 30, Write: true})
	r.Publish()
	peer.Reconnect(h.frontend(h.t))
	for i := range len(unfit) + 1 {
		var e virtqueuetest.Elem
		vm.Eventually(h.t, patience, "an event buffer comes back", func() (ok bool) { e, ok = r.Used(); return ok })
		want := uint32(0)
		if i == len(unfit) {
			want = 4
		}
		if e.Len != want {
			h.t.Errorf("buffer %d comes back with %d bytes, not %d", i, e.Len, want)
		}
	}
	if got := mem.Bytes(odd, 4); string(got) != "\x00\x00\x00\x00" {
		h.t.Errorf("event % x", got)
	}
	h.mustIdle()
	peer.Frontend.Close()
}

var silenceInputs = []input{
	{"52 device-state never-closing pipe", func(h *host) {
		b := h.plug(h.t, stateful, vhostusertest.GuestOptions{})
		for _, direction := range []uint32{vhostuser.TransferSave, vhostuser.TransferLoad} {
			failed := h.metric("device_state_transfers_total", `outcome="failed"`)
			fd := anEmptyPipe(h.t)
			if direction == vhostuser.TransferSave {
				fd = fullPipe(h.t)
			}
			if code := b.frontend.SetDeviceStateFd(direction, 0, fd); code != vhostusertest.TransferAccepted {
				h.t.Fatalf("answered by 0x%x", code)
			}
			h.await(failed+1, "device_state_transfers_total", `outcome="failed"`)
			if b.frontend.CheckDeviceState() == 0 {
				h.t.Error("success")
			}
		}
		b.start()
		b.mustWork(kib)
		b.powerOff()
	}},
	{"89 close-without-rst peer", func(h *host) {
		k := h.talk(muxertest.Options{})
		k.open(lastWordsPort).Close()
		k.driver.Expect(csm.OpShutdown)
		k.driver.ExpectFor(lastWordsPort, k.port, csm.OpRST)
		h.mustForget()
	}},
	{"90 REQUEST then silence", func(h *host) {
		k := h.talk(muxertest.Options{})
		c := h.client(h.t, "CONNECT 52\n")
		p := k.driver.Expect(csm.OpRequest)
		mustEndAt(h.t, c)
		k.driver.ExpectFor(52, p.SrcPort, csm.OpRST)
	}},
	{"90 silent and talkative programs without a line", func(h *host) {
		k := h.talk(muxertest.Options{})
		silent := []*net.UnixConn{h.client(h.t, ""), h.client(h.t, "CONNECT"), h.client(h.t, "CONNECT 5")}
		mustEndAt(h.t, h.client(h.t, string(bytesOf(10*kib))))
		k.mustCarry(lastWordsPort, k.open(lastWordsPort))
		for _, c := range silent {
			mustEndAt(h.t, c)
		}
	}},
}

package tests

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/muxer/muxertest"
	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
	"github.com/vhost-user-vsock/vhost-user-vsock/vhostuser/vhostusertest"
)

// traceSnap is how much of a payload a trace has.
const traceSnap = 256

// seen is a packet, as a driver sees it or as tshark reads it. Without a whole header
// only src and dst are known.
type seen struct {
	short   bool
	header  csm.Header
	size    int // of the payload, or of what is in place of a header
	payload string
}

// tap is a driver that remembers what goes through its rings.
type tap struct {
	*muxertest.Driver
	t        *testing.T
	sent     []seen
	received []seen
}

// send sends a packet. With h.Len the packet claims another length than it has.
func (d *tap) send(h csm.Header, payload []byte) {
	d.Send(h, payload)
	if h.Len == 0 {
		h.Len = uint32(len(payload))
	}
	if h.Op != csm.OpRW {
		payload = nil // its bytes mean nothing
	}
	payload = payload[:min(len(payload), int(h.Len))]
	d.sent = append(d.sent, seen{header: h, size: len(payload), payload: string(payload[:min(len(payload), traceSnap)])})
}

// sendBytes sends less than a header.
func (d *tap) sendBytes(p []byte) {
	d.SendBytes(p)
	d.sent = append(d.sent, seen{short: true, header: csm.Header{SrcCID: 3, DstCID: csm.HostCID}, size: len(p), payload: string(p)})
}

// until receives packets until one has this operation.
func (d *tap) until(op csm.Op) csm.Header {
	d.t.Helper()
	for {
		p, ok := d.Recv(patience)
		if !ok {
			d.t.Fatalf("no %v comes", op)
		}
		d.received = append(d.received, seen{header: p.Header, size: len(p.Payload), payload: string(p.Payload[:min(len(p.Payload), traceSnap)])})
		if p.Op == op {
			return p.Header
		}
	}
}

// untilBytes receives packets until n bytes have come.
func (d *tap) untilBytes(n int) {
	d.t.Helper()
	for n > 0 {
		n -= int(d.until(csm.OpRW).Len)
	}
}

// barrier waits until all that was sent is answered: a packet of no connection gets its
// RST last.
func (d *tap) barrier() {
	d.t.Helper()
	const port = 0xbabab00f
	d.send(d.Header(port, port, csm.OpCreditRequest), nil)
	for d.until(csm.OpRST).SrcPort != port {
	}
}

// tshark runs Debian's tshark.
func tshark(t *testing.T, args ...string) []byte {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command("tshark", args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("tshark: %v\n%s", err, stderr.String())
	}
	return out
}

// traceFields are what tshark calls the parts of a packet.
var traceFields = []string{
	"vsock.src_cid", "vsock.dst_cid", "vsock.src_port", "vsock.dst_port", "vsock.op", "vsock.trans", "vsock.trans_len",
	"vsock.virtio.src_cid", "vsock.virtio.dst_cid", "vsock.virtio.src_prot", "vsock.virtio.dst_prot", "vsock.virtio.len",
	"vsock.virtio.type", "vsock.virtio.op", "vsock.virtio.flags", "vsock.virtio.buf_alloc", "vsock.virtio.fwd_cnt",
	"vsock.payload", "frame.len", "_ws.malformed",
}

// monitorOps are the operations by which vsockmon sorts those of virtio.
var monitorOps = []uint64{0, 1, 1, 2, 2, 4, 3, 3}

// dissect returns the packets of a trace as tshark reads them. Both of its headers must
// tell the same.
func dissect(t *testing.T, path string) (all []seen) {
	t.Helper()
	frames := tsharkFrames(t, path)
	args := []string{"-r", path, "-T", "fields", "-E", "separator=|"}
	for _, f := range traceFields {
		args = append(args, "-e", f)
	}
	lines := strings.Split(strings.TrimSuffix(string(tshark(t, args...)), "\n"), "\n")
	if len(lines) != len(frames) {
		t.Fatalf("tshark reads %d packets, and %d the other time", len(lines), len(frames))
	}
	for i, line := range lines {
		all = append(all, readFields(t, strings.Split(line, "|"), frames[i]))
	}
	return all
}

// tsharkFrames returns the bytes of each packet.
func tsharkFrames(t *testing.T, path string) (frames [][]byte) {
	t.Helper()
	var packets []struct {
		Source struct {
			Layers struct {
				Frame []any `json:"frame_raw"`
			}
		} `json:"_source"`
	}
	if err := json.Unmarshal(tshark(t, "-r", path, "-T", "jsonraw", "-j", "frame"), &packets); err != nil {
		t.Fatal(err)
	}
	for _, p := range packets {
		frame, err := hex.DecodeString(p.Source.Layers.Frame[0].(string))
		if err != nil {
			t.Fatal(err)
		}
		frames = append(frames, frame)
	}
	return frames
}

func readFields(t *testing.T, fields []string, frame []byte) (s seen) {
	t.Helper()
	value := make(map[string]uint64)
	for i, name := range traceFields[:17] {
		if fields[i] == "" {
			continue
		}
		n, err := strconv.ParseUint(fields[i], 0, 64)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		value[strings.TrimPrefix(name, "vsock.")] = n
	}
	if fields[19] != "" {
		t.Errorf("malformed: %q", fields)
	}
	size, err := strconv.Atoi(fields[18])
	if err != nil {
		t.Fatal(err)
	}
	h := &s.header
	h.SrcCID, h.DstCID = value["src_cid"], value["dst_cid"]
	h.SrcPort, h.DstPort = uint32(value["src_port"]), uint32(value["dst_port"])
	if value["trans"] == 1 { // AF_VSOCK_TRANSPORT_NO_INFO
		s.short, s.size, s.payload = true, size-32, string(frame[32:])
		expectPayload(t, fields[17], s)
		return s
	}
	both := map[string]string{"src_cid": "virtio.src_cid", "dst_cid": "virtio.dst_cid", "src_port": "virtio.src_prot", "dst_port": "virtio.dst_prot"}
	for one, other := range both {
		if value[one] != value[other] {
			t.Errorf("%s is %d, %s is %d", one, value[one], other, value[other])
		}
	}
	h.Len, h.Type, h.Op = uint32(value["virtio.len"]), csm.Type(value["virtio.type"]), csm.Op(value["virtio.op"])
	h.Flags, h.BufAlloc, h.FwdCnt = uint32(value["virtio.flags"]), uint32(value["virtio.buf_alloc"]), uint32(value["virtio.fwd_cnt"])
	op := uint64(0)
	if int(h.Op) < len(monitorOps) {
		op = monitorOps[h.Op]
	}
	if value["op"] != op || value["trans"] != 2 || value["trans_len"] != csm.HeaderSize {
		t.Errorf("%v: operation %d, transport %d with %d bytes", h.Op, value["op"], value["trans"], value["trans_len"])
	}
	s.size, s.payload = size-32-csm.HeaderSize, string(frame[32+csm.HeaderSize:])
	expectPayload(t, fields[17], s)
	return s
}

// expectPayload compares what tshark takes for a payload, which is nothing where that
// was cut.
func expectPayload(t *testing.T, field string, s seen) {
	t.Helper()
	want := hex.EncodeToString([]byte(s.payload))
	if len(s.payload) < s.size {
		want = ""
	}
	if field != want {
		t.Errorf("tshark takes %q for the payload of %+v", field, s)
	}
}

// expectSeen compares packets of one direction.
func expectSeen(t *testing.T, way string, got, want []seen) {
	t.Helper()
	for i := range min(len(got), len(want)) {
		if got[i] != want[i] {
			t.Fatalf("packet %d %s:\ngot  %+v\nwant %+v", i, way, got[i], want[i])
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d packets %s, want %d", len(got), way, len(want))
	}
}

// Every packet of either direction is in the trace, in order, with all that a driver
// sees of it, as tshark reads it; also those that are dropped.
func TestSimulatedTrace(t *testing.T) {
	path := filepath.Join(t.TempDir(), "vm.pcap")
	var d *tap
	t.Run("the VM", func(t *testing.T) {
		h := newHost(t, "--trace-packets", path)
		b, driver := h.bareWith(t, vhostusertest.GuestOptions{Features: messaging}, muxertest.Options{})
		d = &tap{Driver: driver, t: t}
		d.converseStream(b)
		d.converseMessages(b)
		d.misbehave()
		d.barrier()
		h.mustForget()
		d.barrier()
		h.await(len(d.sent)+len(d.received), "trace_packets_total", `result="recorded"`)
	})
	if t.Failed() {
		return
	}
	all := dissect(t, path)
	toGuest := func(s seen) bool { return s.header.DstCID == vm.GuestCID }
	fromGuest := func(s seen) bool { return !toGuest(s) }
	expectSeen(t, "from the guest", slices.DeleteFunc(slices.Clone(all), toGuest), d.sent)
	expectSeen(t, "to the guest", slices.DeleteFunc(all, fromGuest), d.received)
}

// converseStream opens a connection of bytes and moves packets of all sizes.
func (d *tap) converseStream(b *board) {
	d.t.Helper()
	port, l := b.listen()
	h := func(op csm.Op) csm.Header { return d.Header(1000, port, op) }
	d.send(h(csm.OpRequest), nil)
	d.until(csm.OpResponse)
	program := acceptFrom(d.t, l)
	for _, size := range []int{1, 5, traceSnap - 1, traceSnap, traceSnap + 1, 5000, 64 * kib} {
		p := bytesOf(size)
		d.send(h(csm.OpRW), p)
		mustReadJust(d.t, program, p)
	}
	d.send(h(csm.OpCreditRequest), nil)
	d.until(csm.OpCreditUpdate)
	for _, size := range []int{1, traceSnap, traceSnap + 1, 20_000} {
		mustWrite(d.t, program, bytesOf(size))
		d.untilBytes(size)
	}
	program.CloseWrite()
	d.until(csm.OpShutdown)
	shutdown := h(csm.OpShutdown)
	shutdown.Flags = csm.ShutdownBoth
	d.send(shutdown, nil)
	d.until(csm.OpRST)
}

// converseMessages does so with messages, one of them empty.
func (d *tap) converseMessages(b *board) {
	d.t.Helper()
	port, l := b.listenSeqpacket()
	h := func(op csm.Op, flags uint32) csm.Header {
		h := d.Header(1001, port, op)
		h.Type, h.Flags = csm.TypeSeqpacket, flags
		return h
	}
	d.send(h(csm.OpRequest, 0), nil)
	d.until(csm.OpResponse)
	program := acceptFrom(d.t, l)
	d.send(h(csm.OpRW, 0), []byte("begun, "))
	d.send(h(csm.OpRW, csm.SeqEOM|csm.SeqEOR), []byte("ended"))
	got := make([]byte, 100)
	if n, err := program.Read(got); err != nil || string(got[:n]) != "begun, ended" {
		d.t.Errorf("the program reads %q, %v", got[:n], err)
	}
	for _, size := range []int{0, 9, 20_000} {
		mustWrite(d.t, program, bytesOf(size))
		for d.until(csm.OpRW).Flags&csm.SeqEOM == 0 {
		}
	}
	d.send(h(csm.OpRST, 0), nil)
}

// misbehave sends what no good driver does.
func (d *tap) misbehave() {
	r := rand.New(rand.NewPCG(3, 5))
	elsewhere := d.Header(1, 2, csm.OpRequest)
	elsewhere.DstCID = 77
	stranger := d.Header(1, 2, csm.OpRequest)
	stranger.SrcCID = 99
	strange := d.Header(1, 2, 1000)
	strange.Type = 9
	long := d.Header(1, 2, csm.OpRW)
	long.Len = 1 << 31
	for _, h := range []csm.Header{elsewhere, stranger, strange, long, d.Header(1, 2, csm.OpInvalid)} {
		d.send(h, []byte("x"))
	}
	for n := range csm.HeaderSize {
		d.sendBytes(bytesOf(n))
	}
	for range 200 {
		d.send(csm.Header{
			SrcCID: 3 + r.Uint64N(2), DstCID: r.Uint64(), SrcPort: r.Uint32(), DstPort: r.Uint32(), Len: r.Uint32N(2000),
			Type: csm.Type(r.Uint32N(4)), Op: csm.Op(r.Uint32N(10)), Flags: r.Uint32(), BufAlloc: r.Uint32(), FwdCnt: r.Uint32(),
		}, bytesOf(r.IntN(1000)))
		if r.IntN(10) == 0 {
			d.barrier()
		}
	}
}

package trace_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
	"github.com/vhost-user-vsock/vhost-user-vsock/trace"
)

// patience bounds every wait of a test that expects success.
const patience = 20 * time.Second

// bench is a Recorder and what can be seen of it.
type bench struct {
	*trace.Recorder
	t     *testing.T
	stats trace.Stats
	log   *logtest.Hook
	path  string
}

// at is when every packet passes.
var at = time.Unix(0x01020304, 0x05060708)

func (b *bench) config(limit int64) trace.Config {
	log, hook := logtest.NewNullLogger()
	b.log = hook
	return trace.Config{Path: b.path, Limit: limit, Now: func() time.Time { return at }, Log: log, Stats: &b.stats}
}

// open returns a Recorder for a new file.
func open(t *testing.T, limit int64) *bench {
	t.Helper()
	b := &bench{t: t, path: filepath.Join(t.TempDir(), "trace.pcap")}
	r, err := trace.Open(b.config(limit))
	if err != nil {
		t.Fatal(err)
	}
	b.Recorder = r
	return b
}

// openOn returns a Recorder for a file of any kind.
func openOn(t *testing.T, f *os.File) *bench {
	b := &bench{t: t}
	b.Recorder = trace.NewRecorder(b.config(1<<30), f)
	return b
}

// record passes a packet on as the muxer does.
func (b *bench) record(h csm.Header, payload []byte) {
	var wire [csm.HeaderSize]byte
	h.Encode(&wire)
	copy(b.Room(len(payload))[csm.HeaderSize:], payload)
	b.Packet(&wire, len(payload))
}

// file closes the Recorder and returns what it wrote.
func (b *bench) file() []byte {
	b.t.Helper()
	if err := b.Close(); err != nil {
		b.t.Fatal(err)
	}
	got, err := os.ReadFile(b.path)
	if err != nil {
		b.t.Fatal(err)
	}
	return got
}

func (b *bench) count(why trace.Result) uint64 { return b.stats.Packets[why].Load() }

// lines returns how many lines of the log have this text.
func (b *bench) lines(text string) (n int) {
	for _, e := range b.log.AllEntries() {
		if e.Message == text {
			n++
		}
	}
	return n
}

// await waits for a line of the log.
func (b *bench) await(text string) {
	b.t.Helper()
	for deadline := time.Now().Add(patience); b.lines(text) == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			b.t.Fatalf("the log does not say %q", text)
		}
	}
}

// The bytes of a file, from the draft of pcap, linux/vsockmon.h and virtio v1.4 §5.10.6.
func TestFileIsAsTheStandardsSay(t *testing.T) {
	b := open(t, 1<<20)
	b.record(csm.Header{
		SrcCID: 3, DstCID: 2, SrcPort: 0x11121314, DstPort: 1234,
		Len: 5, Type: csm.TypeSeqpacket, Op: csm.OpRW, Flags: 1, BufAlloc: 0x40000, FwdCnt: 0x21222324,
	}, []byte("hello"))
	copy(b.Room(0), "short")
	b.Short(3, 2, 5)
	want := []byte{
		0x4d, 0x3c, 0xb2, 0xa1, // magic: times in nanoseconds
		2, 0, 4, 0, // version 2.4
		0, 0, 0, 0, 0, 0, 0, 0, // reserved
		0x4c, 1, 0, 0, // snap length: 32 + 44 + 256
		0x0f, 1, 0, 0, // LINKTYPE_VSOCK: 271

		4, 3, 2, 1, // seconds
		8, 7, 6, 5, // nanoseconds
		81, 0, 0, 0, // bytes here: 32 + 44 + 5
		81, 0, 0, 0, // bytes of the packet
		// struct af_vsockmon_hdr
		3, 0, 0, 0, 0, 0, 0, 0, // src_cid
		2, 0, 0, 0, 0, 0, 0, 0, // dst_cid
		0x14, 0x13, 0x12, 0x11, // src_port
		0xd2, 4, 0, 0, // dst_port
		4, 0, // op: AF_VSOCK_OP_PAYLOAD
		2, 0, // transport: AF_VSOCK_TRANSPORT_VIRTIO
		44, 0, // len of the transport's header
		0, 0, // reserved
		// struct virtio_vsock_hdr
		3, 0, 0, 0, 0, 0, 0, 0, // src_cid
		2, 0, 0, 0, 0, 0, 0, 0, // dst_cid
		0x14, 0x13, 0x12, 0x11, // src_port
		0xd2, 4, 0, 0, // dst_port
		5, 0, 0, 0, // len
		2, 0, // type: VIRTIO_VSOCK_TYPE_SEQPACKET
		5, 0, // op: VIRTIO_VSOCK_OP_RW
		1, 0, 0, 0, // flags: VIRTIO_VSOCK_SEQ_EOM
		0, 0, 4, 0, // buf_alloc
		0x24, 0x23, 0x22, 0x21, // fwd_cnt
		'h', 'e', 'l', 'l', 'o',

		4, 3, 2, 1,
		8, 7, 6, 5,
		37, 0, 0, 0,
		37, 0, 0, 0,
		3, 0, 0, 0, 0, 0, 0, 0, // src_cid
		2, 0, 0, 0, 0, 0, 0, 0, // dst_cid
		0, 0, 0, 0, // src_port
		0, 0, 0, 0, // dst_port
		0, 0, // op: AF_VSOCK_OP_UNKNOWN
		1, 0, // transport: AF_VSOCK_TRANSPORT_NO_INFO
		0, 0, // len
		0, 0, // reserved
		's', 'h', 'o', 'r', 't',
	}
	if got := b.file(); !bytes.Equal(got, want) {
		t.Errorf("got\n% x\nwant\n% x", got, want)
	}
	if n := b.count(trace.Recorded); n != 2 {
		t.Errorf("%d packets are recorded", n)
	}
}

// Linux sorts operations so (virtio_transport_build_skb).
func TestOperations(t *testing.T) {
	b := open(t, 1<<20)
	want := []uint16{0, 1, 1, 2, 2, 4, 3, 3, 0, 0}
	ops := []csm.Op{0, 1, 2, 3, 4, 5, 6, 7, 8, 0xffff}
	for _, op := range ops {
		b.record(csm.Header{Op: op}, nil)
	}
	got := b.file()[24:]
	for i, op := range ops {
		if mon := binary.LittleEndian.Uint16(got[i*92+40:]); mon != want[i] {
			t.Errorf("%v is recorded as %d, want %d", op, mon, want[i])
		}
	}
}

// Any packets come out as they went in, and in order. They fill the ring many times.
func TestRandomPackets(t *testing.T) {
	const packets = 30_000
	b := open(t, 1<<30)
	in, out := rand.NewChaCha8([32]byte{7}), rand.NewChaCha8([32]byte{7})
	packet := func(bytes *rand.ChaCha8) (h csm.Header, payload []byte) {
		r := rand.New(bytes)
		h = csm.Header{
			SrcCID: r.Uint64(), DstCID: r.Uint64(), SrcPort: r.Uint32(), DstPort: r.Uint32(), Len: r.Uint32(),
			Type: csm.Type(r.Uint32()), Op: csm.Op(r.Uint32N(10)), Flags: r.Uint32(), BufAlloc: r.Uint32(), FwdCnt: r.Uint32(),
		}
		payload = make([]byte, r.IntN(2*trace.Snap))
		bytes.Read(payload)
		return h, payload
	}
	for range packets {
		for h, payload := packet(in); ; {
			lost := b.count(trace.Overload)
			if b.record(h, payload); b.count(trace.Overload) == lost {
				break
			}
		}
	}
	got := b.file()[24:]
	for i := range packets {
		h, payload := packet(out)
		kept := min(len(payload), trace.Snap)
		var wire [csm.HeaderSize]byte
		h.Encode(&wire)
		le := binary.LittleEndian
		if n, size := le.Uint32(got[8:]), le.Uint32(got[12:]); n != uint32(76+kept) || size != uint32(76+len(payload)) {
			t.Fatalf("packet %d: %d of %d bytes, want %d of %d", i, n, size, 76+kept, 76+len(payload))
		}
		if !bytes.Equal(got[16+32:][:44], wire[:]) || !bytes.Equal(got[16+32+44:][:kept], payload[:kept]) {
			t.Fatalf("packet %d is not the one that was sent", i)
		}
		got = got[16+76+kept:]
	}
	if len(got) != 0 {
		t.Errorf("%d bytes behind the last packet", len(got))
	}
}

// Who looks on sees a packet soon, though no other one comes.
func TestPacketsAreSeenWhileTheyCome(t *testing.T) {
	b := open(t, 1<<20)
	for i := range 3 {
		b.record(csm.Header{}, nil)
		want := int64(24 + (i+1)*92)
		for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
			info, err := os.Stat(b.path)
			if err != nil {
				t.Fatal(err)
			}
			if info.Size() == want {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the file has %d bytes, want %d", info.Size(), want)
			}
		}
	}
	b.file()
}

// At its limit the file ends with a whole packet, and it is said once.
func TestFileIsBounded(t *testing.T) {
	b := open(t, 24+92+92+100)
	b.record(csm.Header{}, nil)
	b.record(csm.Header{}, nil)
	b.record(csm.Header{}, make([]byte, 9)) // a byte too much
	b.record(csm.Header{}, nil)             // would fit, but would follow on a gap
	if n := len(b.file()); n != 24+92+92 {
		t.Errorf("the file has %d bytes", n)
	}
	if recorded, full := b.count(trace.Recorded), b.count(trace.Full); recorded != 2 || full != 2 {
		t.Errorf("%d packets recorded, %d not, want 2 and 2", recorded, full)
	}
	if n := b.lines("trace is full, it ends here"); n != 1 {
		t.Errorf("it is said %d times that the trace is full", n)
	}
}

// A disk that does not answer costs packets, which are counted, and no time. What did
// not fit into the ring is missing; all else comes when the disk goes on.
func TestStuckWriterStopsNobody(t *testing.T) {
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	b := openOn(t, out)
	const packets = 2 * trace.RingSize / 92
	for range packets {
		b.record(csm.Header{}, nil)
	}
	lost := b.count(trace.Overload)
	if recorded := b.count(trace.Recorded); recorded+lost != packets || recorded < trace.RingSize/92 || lost == 0 {
		t.Errorf("of %d packets %d are recorded and %d are not", packets, recorded, lost)
	}
	if n := b.lines("packets are missing in the trace"); n < 1 || n > 10 {
		t.Errorf("%d log lines for %d lost packets", n, lost)
	}
	read := make(chan []byte)
	go func() {
		all, _ := io.ReadAll(in)
		read <- all
	}()
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	if n := len(<-read); uint64(n) != 92*b.count(trace.Recorded) {
		t.Errorf("%d bytes were written for %d packets", n, b.count(trace.Recorded))
	}
}

// The end of a VM does not wait for a stuck disk for ever.
func TestCloseGivesUp(t *testing.T) {
	in, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	b := openOn(t, out)
	for b.count(trace.Overload) == 0 {
		b.record(csm.Header{}, nil)
	}
	begin := time.Now()
	if err := b.Close(); err == nil {
		t.Error("the file is complete, it is said")
	}
	if took := time.Since(begin); took < trace.CloseLimit*9/10 {
		t.Errorf("gave up after %v, want %v", took, trace.CloseLimit)
	}
	in.Close() // ends the write
}

// A disk without room is tried again: what waits goes on within the packet where it was
// cut.
func TestFullDiskIsTriedAgain(t *testing.T) {
	b := open(t, 1<<20)
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
		t.Fatal(err)
	}
	restore := func() {
		if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &limit); err != nil {
			t.Error(err)
		}
	}
	defer restore()
	if err := syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 24 + 92 + 30, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	for i := range uint64(3) {
		b.record(csm.Header{SrcCID: i}, nil)
	}
	b.await("trace cannot be written, it is tried again")
	if info, err := os.Stat(b.path); err != nil || info.Size() != 24+92+30 {
		t.Errorf("the file has %d bytes, error %v", info.Size(), err)
	}
	restore()
	b.await("trace is written again")
	got := b.file()
	if len(got) != 24+3*92 {
		t.Fatalf("the file has %d bytes", len(got))
	}
	for i := range 3 {
		if cid := binary.LittleEndian.Uint64(got[24+i*92+16:]); cid != uint64(i) {
			t.Errorf("packet %d is the one from CID %d", i, cid)
		}
	}
}

// A disk that stays full stops nothing, is told of once, and fails the end.
func TestDiskThatStaysFull(t *testing.T) {
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	b := openOn(t, full)
	const said = "trace cannot be written, it is tried again"
	b.record(csm.Header{}, nil)
	b.await(said)
	for b.count(trace.Overload) == 0 { // nothing is written, nothing stops
		b.record(csm.Header{}, nil)
	}
	if err := b.Close(); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("Close: %v, want ENOSPC", err)
	}
	if n := b.lines(said); n != 1 {
		t.Errorf("it is said %d times that the disk is full", n)
	}
}

// Neither who records allocates, nor who writes.
func TestRecordingAllocatesNothing(t *testing.T) {
	b := open(t, 1<<20)
	f, err := os.Open(b.path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var file syscall.Stat_t
	size, payload := int64(24), make([]byte, trace.Snap)
	turn := func() {
		b.record(csm.Header{Op: csm.OpRW}, payload)
		size += int64(92 + len(payload))
		for deadline := time.Now().Add(patience); file.Size != size; time.Sleep(time.Millisecond) {
			if err := syscall.Fstat(int(f.Fd()), &file); err != nil || time.Now().After(deadline) {
				t.Fatalf("the file has %d bytes, error %v", file.Size, err)
			}
		}
	}
	if n := testing.AllocsPerRun(5, turn); n != 0 {
		t.Errorf("%v allocations", n)
	}
	b.file()
}

// A former trace is kept, and only the one before that is lost.
func TestFormerFileIsKept(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "trace.pcap")
	for _, text := range []string{"first", "second"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		b := &bench{t: t, path: path}
		r, err := trace.Open(b.config(1 << 20))
		if err != nil {
			t.Fatal(err)
		}
		b.Recorder = r
		if n := len(b.file()); n != 24 {
			t.Errorf("an empty trace has %d bytes", n)
		}
		if old, err := os.ReadFile(path + trace.FormerSuffix); err != nil || string(old) != text {
			t.Errorf("the former file: %q, %v; want %q", old, err, text)
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("the file has mode %v, error %v", info.Mode(), err)
	}
	if names, err := os.ReadDir(dir); err != nil || len(names) != 2 {
		t.Errorf("files: %v, %v", names, err)
	}
}

// Nothing but a regular file is ever touched, and no link followed.
func TestOnlyRegularFilesAreReplaced(t *testing.T) {
	dir := t.TempDir()
	victim := filepath.Join(dir, "victim")
	if err := os.WriteFile(victim, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, make := range map[string]func(path string) error{
		"directory": func(path string) error { return os.Mkdir(path, 0o700) },
		"FIFO":      func(path string) error { return syscall.Mkfifo(path, 0o600) },
		"link":      func(path string) error { return os.Symlink("victim", path) },
		"dangling":  func(path string) error { return os.Symlink("nowhere", path) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name)
			if err := make(path); err != nil {
				t.Fatal(err)
			}
			r, err := trace.Open(trace.Config{Path: path, Limit: 1 << 20, Now: time.Now, Log: logrus.New(), Stats: new(trace.Stats)})
			if err == nil {
				t.Errorf("it became a trace; close: %v", r.Close())
			}
		})
	}
	if text, err := os.ReadFile(victim); err != nil || string(text) != "precious" {
		t.Errorf("the file behind a link: %q, %v", text, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "nowhere")); err == nil {
		t.Error("a file was made behind a link")
	}
}

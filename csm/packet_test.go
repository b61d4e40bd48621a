package csm_test

import (
	"bytes"
	"encoding/hex"
	"math/rand/v2"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
)

// goldenHeaders are typed by hand from virtio v1.4 §5.10.6, one field a line.
var goldenHeaders = []struct {
	name   string
	header csm.Header
	wire   [csm.HeaderSize]byte
}{
	{
		name: "every field distinct",
		header: csm.Header{
			SrcCID:   0x1817161514131211,
			DstCID:   0x2827262524232221,
			SrcPort:  0x34333231,
			DstPort:  0x44434241,
			Len:      0x54535251,
			Type:     0x6261,
			Op:       0x7271,
			Flags:    0x84838281,
			BufAlloc: 0x94939291,
			FwdCnt:   0xa4a3a2a1,
		},
		wire: [csm.HeaderSize]byte{
			0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, // 0: src_cid
			0x21, 0x22, 0x23, 0x24, 0x25, 0x26, 0x27, 0x28, // 8: dst_cid
			0x31, 0x32, 0x33, 0x34, // 16: src_port
			0x41, 0x42, 0x43, 0x44, // 20: dst_port
			0x51, 0x52, 0x53, 0x54, // 24: len
			0x61, 0x62, // 28: type
			0x71, 0x72, // 30: op
			0x81, 0x82, 0x83, 0x84, // 32: flags
			0x91, 0x92, 0x93, 0x94, // 36: buf_alloc
			0xa1, 0xa2, 0xa3, 0xa4, // 40: fwd_cnt
		},
	},
	{
		name: "REQUEST 3:1025 to 2:1026",
		header: csm.Header{
			SrcCID: 3, DstCID: 2, SrcPort: 1025, DstPort: 1026,
			Type: csm.TypeStream, Op: csm.OpRequest, BufAlloc: 65536,
		},
		wire: [csm.HeaderSize]byte{
			3, 0, 0, 0, 0, 0, 0, 0, // src_cid
			2, 0, 0, 0, 0, 0, 0, 0, // dst_cid: the host
			0x01, 0x04, 0, 0, // src_port 1025
			0x02, 0x04, 0, 0, // dst_port 1026
			0, 0, 0, 0, // len
			1, 0, // type: stream
			1, 0, // op: REQUEST
			0, 0, 0, 0, // flags
			0, 0, 1, 0, // buf_alloc 65536
			0, 0, 0, 0, // fwd_cnt
		},
	},
	{
		name: "RST 2:1026 to 3:1025",
		header: csm.Header{
			SrcCID: csm.HostCID, DstCID: 3, SrcPort: 1026, DstPort: 1025,
			Type: csm.TypeStream, Op: csm.OpRST,
		},
		wire: [csm.HeaderSize]byte{
			2, 0, 0, 0, 0, 0, 0, 0, // src_cid: the host
			3, 0, 0, 0, 0, 0, 0, 0, // dst_cid
			0x02, 0x04, 0, 0, // src_port 1026
			0x01, 0x04, 0, 0, // dst_port 1025
			0, 0, 0, 0, // len
			1, 0, // type: stream
			3, 0, // op: RST
			0, 0, 0, 0, // flags
			0, 0, 0, 0, // buf_alloc
			0, 0, 0, 0, // fwd_cnt
		},
	},
	{
		name: "SHUTDOWN of both directions",
		header: csm.Header{
			SrcCID: csm.HostCID, DstCID: 0xfffffffe, SrcPort: 0, DstPort: 0xffffffff,
			Type: csm.TypeStream, Op: csm.OpShutdown, Flags: csm.ShutdownBoth, BufAlloc: 262144, FwdCnt: 0xfffffff0,
		},
		wire: [csm.HeaderSize]byte{
			2, 0, 0, 0, 0, 0, 0, 0, // src_cid: the host
			0xfe, 0xff, 0xff, 0xff, 0, 0, 0, 0, // dst_cid
			0, 0, 0, 0, // src_port
			0xff, 0xff, 0xff, 0xff, // dst_port
			0, 0, 0, 0, // len
			1, 0, // type: stream
			4, 0, // op: SHUTDOWN
			3, 0, 0, 0, // flags: will not receive, will not send
			0, 0, 4, 0, // buf_alloc 262144
			0xf0, 0xff, 0xff, 0xff, // fwd_cnt
		},
	},
}

func TestHeaderWireForm(t *testing.T) {
	for _, g := range goldenHeaders {
		t.Run(g.name, func(t *testing.T) {
			wire := [csm.HeaderSize]byte(bytes.Repeat([]byte{0xee}, csm.HeaderSize))
			g.header.Encode(&wire)
			if wire != g.wire {
				t.Errorf("encoded\n%x, want\n%x", wire, g.wire)
			}
			got := csm.Header{Flags: 77}
			if got.Decode(&g.wire); got != g.header {
				t.Errorf("decoded %+v, want %+v", got, g.header)
			}
		})
	}
}

// The same two vectors as other implementations print them.
func TestHeaderGoldenHex(t *testing.T) {
	for i, want := range map[int]string{
		1: "0300000000000000020000000000000001040000020400000000000001000100000000000000010000000000",
		2: "0200000000000000030000000000000002040000010400000000000001000300000000000000000000000000",
	} {
		var wire [csm.HeaderSize]byte
		goldenHeaders[i].header.Encode(&wire)
		if got := hex.EncodeToString(wire[:]); got != want {
			t.Errorf("%s: %s, want %s", goldenHeaders[i].name, got, want)
		}
	}
}

func TestNumbersOfTheWire(t *testing.T) {
	for op, want := range map[csm.Op]struct {
		number uint16
		name   string
	}{
		csm.OpInvalid:       {0, "INVALID"},
		csm.OpRequest:       {1, "REQUEST"},
		csm.OpResponse:      {2, "RESPONSE"},
		csm.OpRST:           {3, "RST"},
		csm.OpShutdown:      {4, "SHUTDOWN"},
		csm.OpRW:            {5, "RW"},
		csm.OpCreditUpdate:  {6, "CREDIT_UPDATE"},
		csm.OpCreditRequest: {7, "CREDIT_REQUEST"},
		8:                   {8, "op 8"},
		65535:               {65535, "op 65535"},
	} {
		if uint16(op) != want.number || op.String() != want.name {
			t.Errorf("op %d is called %q, want %d, %q", uint16(op), op, want.number, want.name)
		}
	}
	if csm.TypeStream != 1 || csm.TypeSeqpacket != 2 {
		t.Error("types must be 1 and 2")
	}
	if csm.ShutdownRcv != 1 || csm.ShutdownSend != 2 || csm.ShutdownBoth != 3 {
		t.Error("SHUTDOWN flags must be 1 and 2")
	}
	if csm.HeaderSize != 44 || csm.MaxPayload != 65536 || csm.HostCID != 2 {
		t.Error("a header is 44 bytes, a payload at most 64 KiB, the host CID 2")
	}
}

func TestHeaderRoundTrip(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 10000 {
		want := csm.Header{
			SrcCID: r.Uint64(), DstCID: r.Uint64(), SrcPort: r.Uint32(), DstPort: r.Uint32(), Len: r.Uint32(),
			Type: csm.Type(r.Uint32()), Op: csm.Op(r.Uint32()), Flags: r.Uint32(), BufAlloc: r.Uint32(), FwdCnt: r.Uint32(),
		}
		var wire [csm.HeaderSize]byte
		want.Encode(&wire)
		var got csm.Header
		if got.Decode(&wire); got != want {
			t.Fatalf("decoded %+v, want %+v", got, want)
		}
	}
}

// FuzzHeader: any 44 bytes decode, and encode to the same bytes again.
func FuzzHeader(f *testing.F) {
	for _, g := range goldenHeaders {
		f.Add(g.wire[:])
	}
	f.Add(bytes.Repeat([]byte{0xff}, csm.HeaderSize))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		var want, got [csm.HeaderSize]byte
		copy(want[:], data)
		var h csm.Header
		h.Decode(&want)
		if h.Encode(&got); got != want {
			t.Fatalf("%x became %x", want, got)
		}
	})
}

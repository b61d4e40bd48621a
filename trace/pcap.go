package trace

import (
	"encoding/binary"
	"time"

	"github.com/vhost-user-vsock/vhost-user-vsock/csm"
)

// Snap is how many bytes of a payload are kept: enough to see what protocol it is and
// where its messages begin. A packet of 64 KiB takes 348 bytes, so that a busy VM fills
// neither the disk nor the ring at once.
const Snap = 256

// The file is a classic pcap file, little-endian, with times in nanoseconds
// (draft-ietf-opsawg-pcap).
const (
	magicNanoseconds = 0xa1b23c4d
	versionMajor     = 2
	versionMinor     = 4
	linkTypeVsock    = 271 // LINKTYPE_VSOCK

	fileHeaderSize   = 24
	recordHeaderSize = 16
)

// Each record begins with struct af_vsockmon_hdr of linux/vsockmon.h.
const (
	monitorHeaderSize = 32

	monitorUnknown    = 0 // AF_VSOCK_OP_UNKNOWN
	monitorConnect    = 1 // AF_VSOCK_OP_CONNECT
	monitorDisconnect = 2 // AF_VSOCK_OP_DISCONNECT
	monitorControl    = 3 // AF_VSOCK_OP_CONTROL
	monitorPayload    = 4 // AF_VSOCK_OP_PAYLOAD

	transportNoInfo = 1 // AF_VSOCK_TRANSPORT_NO_INFO
	transportVirtio = 2 // AF_VSOCK_TRANSPORT_VIRTIO
)

// monitorOps is how Linux sorts operations (virtio_transport_build_skb); it calls any
// other unknown.
var monitorOps = [...]uint16{
	csm.OpInvalid:       monitorUnknown,
	csm.OpRequest:       monitorConnect,
	csm.OpResponse:      monitorConnect,
	csm.OpRST:           monitorDisconnect,
	csm.OpShutdown:      monitorDisconnect,
	csm.OpRW:            monitorPayload,
	csm.OpCreditUpdate:  monitorControl,
	csm.OpCreditRequest: monitorControl,
}

func monitorOp(op csm.Op) uint16 {
	if int(op) < len(monitorOps) {
		return monitorOps[op]
	}
	return monitorUnknown
}

func fileHeader() []byte {
	le, b := binary.LittleEndian, make([]byte, 0, fileHeaderSize)
	b = le.AppendUint32(b, magicNanoseconds)
	b = le.AppendUint16(b, versionMajor)
	b = le.AppendUint16(b, versionMinor)
	b = le.AppendUint64(b, 0) // reserved
	b = le.AppendUint32(b, monitorHeaderSize+csm.HeaderSize+Snap)
	return le.AppendUint32(b, linkTypeVsock)
}

// record is one packet in the file, of which only the beginning may be in use: its
// header, struct af_vsockmon_hdr, and a body, which is the virtio header and payload.
type record [bodyAt + csm.HeaderSize + Snap]byte

const (
	monitorAt = recordHeaderSize
	bodyAt    = monitorAt + monitorHeaderSize
)

// packet puts the header of a packet into the body, and what it says in front of it.
func (r *record) packet(wire *[csm.HeaderSize]byte) {
	le, m := binary.LittleEndian, r[monitorAt:bodyAt]
	copy(m[:24], wire[:]) // CIDs and ports are the same in both headers
	le.PutUint16(m[24:], monitorOp(csm.Op(le.Uint16(wire[30:]))))
	le.PutUint16(m[26:], transportVirtio)
	le.PutUint16(m[28:], csm.HeaderSize)
	copy(r[bodyAt:], wire[:])
}

// bytes says that the body is bytes between two CIDs of which nothing is known.
func (r *record) bytes(src, dst uint64) {
	le, m := binary.LittleEndian, r[monitorAt:bodyAt]
	clear(m)
	le.PutUint64(m, src)
	le.PutUint64(m[8:], dst)
	le.PutUint16(m[24:], monitorUnknown)
	le.PutUint16(m[26:], transportNoInfo)
}

// finish returns the record of a body of size bytes, of which kept are there.
func (r *record) finish(at time.Time, kept, size int) []byte {
	le := binary.LittleEndian
	le.PutUint32(r[0:], uint32(at.Unix()))
	le.PutUint32(r[4:], uint32(at.Nanosecond()))
	le.PutUint32(r[8:], uint32(monitorHeaderSize+kept))
	le.PutUint32(r[12:], uint32(monitorHeaderSize+size))
	return r[:bodyAt+kept]
}

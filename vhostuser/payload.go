package vhostuser

import (
	"encoding/binary"

	"github.com/vhost-user-vsock/vhost-user-vsock/guestmem"
)

// Sizes of the payloads with a fixed layout, in bytes.
const (
	u64Size          = 8
	vringStateSize   = 8
	vringAddrSize    = 40
	logRegionSize    = 16
	deviceStateSize  = 8
	memTableHead     = 8
	memRegionSize    = 32
	singleRegionSize = 40
	configHead       = 12
)

// VringState is the payload of the messages about one number of one ring.
type VringState struct {
	Index uint32
	Num   uint32
}

// AppendTo appends the payload's bytes to b.
func (v VringState) AppendTo(b []byte) []byte {
	b = binary.NativeEndian.AppendUint32(b, v.Index)
	return binary.NativeEndian.AppendUint32(b, v.Num)
}

// ParseVringState reads the first 8 bytes of b.
func ParseVringState(b []byte) VringState {
	return VringState{binary.NativeEndian.Uint32(b), binary.NativeEndian.Uint32(b[4:])}
}

// VringAddr is the payload of VHOST_USER_SET_VRING_ADDR. Desc, Used and Avail
// are addresses of the frontend's, which the memory table translates.
type VringAddr struct {
	Index uint32
	Flags uint32 // VringFlagLog or 0
	Desc  uint64
	Used  uint64
	Avail uint64
	Log   uint64 // a guest address; meaningless without that flag
}

// VringFlagLog says that writes to the used ring are logged (VHOST_VRING_F_LOG).
const VringFlagLog = 1

// AppendTo appends the payload's bytes to b.
func (v VringAddr) AppendTo(b []byte) []byte {
	b = binary.NativeEndian.AppendUint32(b, v.Index)
	b = binary.NativeEndian.AppendUint32(b, v.Flags)
	for _, addr := range [...]uint64{v.Desc, v.Used, v.Avail, v.Log} {
		b = binary.NativeEndian.AppendUint64(b, addr)
	}
	return b
}

// ParseVringAddr reads the first 40 bytes of b.
func ParseVringAddr(b []byte) VringAddr {
	return VringAddr{
		Index: binary.NativeEndian.Uint32(b),
		Flags: binary.NativeEndian.Uint32(b[4:]),
		Desc:  binary.NativeEndian.Uint64(b[8:]),
		Used:  binary.NativeEndian.Uint64(b[16:]),
		Avail: binary.NativeEndian.Uint64(b[24:]),
		Log:   binary.NativeEndian.Uint64(b[32:]),
	}
}

// log returns what the message says of logging. UML sends nonsense without the flag.
func (v VringAddr) log() ringLog {
	if v.Flags&VringFlagLog == 0 {
		return ringLog{}
	}
	return ringLog{on: true, addr: v.Log}
}

// LogRegion is the payload of VHOST_USER_SET_LOG_BASE: where the log is in the
// file that comes with it.
type LogRegion struct {
	Size   uint64 // bytes, each for 8 pages
	Offset uint64
}

// AppendTo appends the payload's bytes to b.
func (l LogRegion) AppendTo(b []byte) []byte {
	b = binary.NativeEndian.AppendUint64(b, l.Size)
	return binary.NativeEndian.AppendUint64(b, l.Offset)
}

// ParseLogRegion reads the first 16 bytes of b.
func ParseLogRegion(b []byte) LogRegion {
	return LogRegion{binary.NativeEndian.Uint64(b), binary.NativeEndian.Uint64(b[8:])}
}

// VringFd is the payload of VHOST_USER_SET_VRING_KICK, _CALL and _ERR.
type VringFd uint64

const (
	vringIndexMask VringFd = 0xff
	// VringNoFd says that the message brings no descriptor.
	VringNoFd VringFd = 1 << 8
)

// MemRegions is the payload of VHOST_USER_SET_MEM_TABLE; its n-th region comes
// with the n-th descriptor.
type MemRegions []guestmem.Region

// AppendTo appends the payload's bytes to b.
func (m MemRegions) AppendTo(b []byte) []byte {
	b = binary.NativeEndian.AppendUint32(b, uint32(len(m)))
	b = binary.NativeEndian.AppendUint32(b, 0) // padding
	for _, r := range m {
		b = appendRegion(b, r)
	}
	return b
}

// parseMemRegions reads a whole payload. UML sends room for two regions however
// many there are, so bytes behind the last one are ignored.
func parseMemRegions(b []byte) (MemRegions, error) {
	n := binary.NativeEndian.Uint32(b)
	b = b[memTableHead:]
	if n > MaxFds || int(n) > len(b)/memRegionSize {
		return nil, errPayload
	}
	regions := make(MemRegions, n)
	for i := range regions {
		regions[i] = parseRegion(b[i*memRegionSize:])
	}
	return regions, nil
}

// SingleMemRegion is the payload of VHOST_USER_ADD_MEM_REG and _REM_MEM_REG.
type SingleMemRegion guestmem.Region

// AppendTo appends the payload's bytes to b.
func (s SingleMemRegion) AppendTo(b []byte) []byte {
	b = binary.NativeEndian.AppendUint64(b, 0) // padding
	return appendRegion(b, guestmem.Region(s))
}

func parseSingleRegion(b []byte) guestmem.Region { return parseRegion(b[8:]) }

func appendRegion(b []byte, r guestmem.Region) []byte {
	for _, v := range [...]uint64{r.GuestAddr, r.Size, r.UserAddr, r.Offset} {
		b = binary.NativeEndian.AppendUint64(b, v)
	}
	return b
}

func parseRegion(b []byte) guestmem.Region {
	return guestmem.Region{
		GuestAddr: binary.NativeEndian.Uint64(b),
		Size:      binary.NativeEndian.Uint64(b[8:]),
		UserAddr:  binary.NativeEndian.Uint64(b[16:]),
		Offset:    binary.NativeEndian.Uint64(b[24:]),
	}
}

// ConfigSpace heads the payload of VHOST_USER_GET_CONFIG and _SET_CONFIG; Size
// bytes of the config space follow.
type ConfigSpace struct {
	Offset uint32
	Size   uint32
	Flags  uint32
}

// AppendTo appends the head's bytes to b.
func (c ConfigSpace) AppendTo(b []byte) []byte {
	b = binary.NativeEndian.AppendUint32(b, c.Offset)
	b = binary.NativeEndian.AppendUint32(b, c.Size)
	return binary.NativeEndian.AppendUint32(b, c.Flags)
}

// ParseConfigSpace reads the first 12 bytes of b.
func ParseConfigSpace(b []byte) ConfigSpace {
	return ConfigSpace{
		Offset: binary.NativeEndian.Uint32(b),
		Size:   binary.NativeEndian.Uint32(b[4:]),
		Flags:  binary.NativeEndian.Uint32(b[8:]),
	}
}

// DeviceState is the payload of VHOST_USER_SET_DEVICE_STATE_FD.
type DeviceState struct {
	Direction uint32 // TransferSave or TransferLoad
	Phase     uint32 // TransferStopped
}

const (
	TransferSave uint32 = 0
	TransferLoad uint32 = 1

	TransferStopped uint32 = 0 // while all rings are stopped
)

// AppendTo appends the payload's bytes to b.
func (d DeviceState) AppendTo(b []byte) []byte {
	b = binary.NativeEndian.AppendUint32(b, d.Direction)
	return binary.NativeEndian.AppendUint32(b, d.Phase)
}

// ParseDeviceState reads the first 8 bytes of b.
func ParseDeviceState(b []byte) DeviceState {
	return DeviceState{binary.NativeEndian.Uint32(b), binary.NativeEndian.Uint32(b[4:])}
}

func parseU64(b []byte) uint64 { return binary.NativeEndian.Uint64(b) }

func u64Payload(v uint64) []byte { return binary.NativeEndian.AppendUint64(nil, v) }

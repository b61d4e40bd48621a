package vhostuser

import (
	"math/bits"
	"strconv"
	"strings"
)

// Feature bits between us and the frontend: offered here, whatever the device
// is, and never its concern.
const (
	FeatureLogAll           uint64 = 1 << 26 // VHOST_F_LOG_ALL
	FeatureProtocolFeatures uint64 = 1 << 30 // VHOST_USER_F_PROTOCOL_FEATURES

	ourFeatures = FeatureLogAll | FeatureProtocolFeatures
)

// Virtio feature bits that concern the rings (virtio v1.4 §6). The device
// chooses which of them it offers.
const (
	FeatureIndirectDesc uint64 = 1 << 28 // VIRTIO_F_INDIRECT_DESC
	FeatureEventIdx     uint64 = 1 << 29 // VIRTIO_F_EVENT_IDX
	FeatureVersion1     uint64 = 1 << 32 // VIRTIO_F_VERSION_1
	FeatureRingPacked   uint64 = 1 << 34 // VIRTIO_F_RING_PACKED
)

// ProtocolFeatures is the word of VHOST_USER_GET_PROTOCOL_FEATURES.
type ProtocolFeatures uint64

const (
	ProtocolMQ                  ProtocolFeatures = 1 << 0
	ProtocolLogShmfd            ProtocolFeatures = 1 << 1
	ProtocolReplyAck            ProtocolFeatures = 1 << 3
	ProtocolBackendReq          ProtocolFeatures = 1 << 5
	ProtocolConfig              ProtocolFeatures = 1 << 9
	ProtocolResetDevice         ProtocolFeatures = 1 << 13
	ProtocolInBandNotifications ProtocolFeatures = 1 << 14
	ProtocolConfigureMemSlots   ProtocolFeatures = 1 << 15
	ProtocolDeviceState         ProtocolFeatures = 1 << 19
)

// knownProtocol is what works. QEMU acknowledges every bit it is offered,
// whether it means anything for the device or not, so nothing else may be here.
const knownProtocol = ProtocolMQ | ProtocolLogShmfd | ProtocolReplyAck | ProtocolBackendReq |
	ProtocolConfig | ProtocolResetDevice | ProtocolInBandNotifications | ProtocolConfigureMemSlots |
	ProtocolDeviceState

var protocolNames = map[ProtocolFeatures]string{
	ProtocolMQ:                  "MQ",
	ProtocolLogShmfd:            "LOG_SHMFD",
	ProtocolReplyAck:            "REPLY_ACK",
	ProtocolBackendReq:          "BACKEND_REQ",
	ProtocolConfig:              "CONFIG",
	ProtocolResetDevice:         "RESET_DEVICE",
	ProtocolInBandNotifications: "INBAND_NOTIFICATIONS",
	ProtocolConfigureMemSlots:   "CONFIGURE_MEM_SLOTS",
	ProtocolDeviceState:         "DEVICE_STATE",
}

// String joins the names of the bits that are set, lowest first.
func (p ProtocolFeatures) String() string {
	var names []string
	for rest := p; rest != 0; rest &= rest - 1 {
		bit := rest & -rest
		name, ok := protocolNames[bit]
		if !ok {
			name = "bit " + strconv.Itoa(bits.TrailingZeros64(uint64(bit)))
		}
		names = append(names, name)
	}
	return strings.Join(names, "|")
}

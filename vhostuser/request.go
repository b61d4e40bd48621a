package vhostuser

import "strconv"

// Request says what a message from the frontend asks for.
type Request uint32

// The requests served here; VHOST_USER_ and the upper-case name in the
// specification. Every other code is refused.
const (
	MsgGetFeatures         Request = 1
	MsgSetFeatures         Request = 2
	MsgSetOwner            Request = 3
	MsgResetOwner          Request = 4
	MsgSetMemTable         Request = 5
	MsgSetLogBase          Request = 6
	MsgSetLogFd            Request = 7
	MsgSetVringNum         Request = 8
	MsgSetVringAddr        Request = 9
	MsgSetVringBase        Request = 10
	MsgGetVringBase        Request = 11
	MsgSetVringKick        Request = 12
	MsgSetVringCall        Request = 13
	MsgSetVringErr         Request = 14
	MsgGetProtocolFeatures Request = 15
	MsgSetProtocolFeatures Request = 16
	MsgGetQueueNum         Request = 17
	MsgSetVringEnable      Request = 18
	MsgSetBackendReqFd     Request = 21
	MsgGetConfig           Request = 24
	MsgSetConfig           Request = 25
	MsgResetDevice         Request = 34
	MsgVringKick           Request = 35
	MsgGetMaxMemSlots      Request = 36
	MsgAddMemReg           Request = 37
	MsgRemMemReg           Request = 38
	MsgSetDeviceStateFd    Request = 42
	MsgCheckDeviceState    Request = 43
)

var requestNames = map[Request]string{
	MsgGetFeatures:         "GET_FEATURES",
	MsgSetFeatures:         "SET_FEATURES",
	MsgSetOwner:            "SET_OWNER",
	MsgResetOwner:          "RESET_OWNER",
	MsgSetMemTable:         "SET_MEM_TABLE",
	MsgSetLogBase:          "SET_LOG_BASE",
	MsgSetLogFd:            "SET_LOG_FD",
	MsgSetVringNum:         "SET_VRING_NUM",
	MsgSetVringAddr:        "SET_VRING_ADDR",
	MsgSetVringBase:        "SET_VRING_BASE",
	MsgGetVringBase:        "GET_VRING_BASE",
	MsgSetVringKick:        "SET_VRING_KICK",
	MsgSetVringCall:        "SET_VRING_CALL",
	MsgSetVringErr:         "SET_VRING_ERR",
	MsgGetProtocolFeatures: "GET_PROTOCOL_FEATURES",
	MsgSetProtocolFeatures: "SET_PROTOCOL_FEATURES",
	MsgGetQueueNum:         "GET_QUEUE_NUM",
	MsgSetVringEnable:      "SET_VRING_ENABLE",
	MsgSetBackendReqFd:     "SET_BACKEND_REQ_FD",
	MsgGetConfig:           "GET_CONFIG",
	MsgSetConfig:           "SET_CONFIG",
	MsgResetDevice:         "RESET_DEVICE",
	MsgVringKick:           "VRING_KICK",
	MsgGetMaxMemSlots:      "GET_MAX_MEM_SLOTS",
	MsgAddMemReg:           "ADD_MEM_REG",
	MsgRemMemReg:           "REM_MEM_REG",
	MsgSetDeviceStateFd:    "SET_DEVICE_STATE_FD",
	MsgCheckDeviceState:    "CHECK_DEVICE_STATE",
}

func (r Request) String() string {
	if name, ok := requestNames[r]; ok {
		return name
	}
	return "request " + strconv.FormatUint(uint64(r), 10)
}

//go:build race

package eventloop

// raceDetector tells whether there is one, for which system calls allocate what they fill.
const raceDetector = true

//go:build !race

package eventloop

const raceDetector = false

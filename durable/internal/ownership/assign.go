package ownership

import "rpc.do/bus"

// assign says who should own each slot of a class: of the candidates, the one
// with the highest score. So one that comes or goes moves its own share and
// nothing else (rendezvous hashing). It says nobody when there are none.
func assign(class string, candidates []string) [bus.Slots]string {
	var targets [bus.Slots]string
	var best [bus.Slots]uint64
	for _, id := range candidates {
		seed := hash(hash(offset, id), class)
		for n := range targets {
			if s := score(seed, n); targets[n] == "" || s > best[n] || s == best[n] && id > targets[n] {
				targets[n], best[n] = id, s
			}
		}
	}
	return targets
}

// FNV-1a-64.
const (
	offset = 14695981039346656037
	prime  = 1099511628211
)

func hash(h uint64, text string) uint64 {
	for i := range len(text) {
		h = (h ^ uint64(text[i])) * prime
	}
	return (h ^ '/') * prime
}

// score stirs the hash (the finalizer of SplitMix64): FNV alone leaves the last
// bytes in the low bits.
func score(seed uint64, slot int) uint64 {
	h := (seed ^ uint64(slot)) * prime
	h = (h ^ h>>30) * 0xbf58476d1ce4e5b9
	h = (h ^ h>>27) * 0x94d049bb133111eb
	return h ^ h>>31
}

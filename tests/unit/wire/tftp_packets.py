"""Any TFTP packets, for Hypothesis."""

from __future__ import annotations

from hypothesis import strategies as st

from provider.wire import tftp

words = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=20)
options = st.dictionaries(words.map(str.lower), words, max_size=6)
sixteen_bits = st.integers(0, 0xFFFF)
packets = st.one_of(
    st.builds(tftp.ReadRequest, name=words, options=options),
    st.builds(tftp.WriteRequest, name=words, options=options),
    st.builds(tftp.Data, sixteen_bits, st.binary(max_size=1468)),
    st.builds(tftp.Ack, sixteen_bits),
    st.builds(tftp.Error, sixteen_bits, st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E))),
    st.builds(tftp.OptionAck, options),
)

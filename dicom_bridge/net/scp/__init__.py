"""The node's own DICOM acceptor: a lean Storage SCP in one or several processes.

pynetdicom stays this package's stack for what the node asks of others (SCU) and for the codecs of
A-ASSOCIATE. Its *acceptor* is replaced, for defects that no setting cures (reproduced on 3.0.4):

- the TLS handshake runs on the accept thread, so one silent TCP client stops every new association
  (same class as dcm4che#939 and fo-dicom#1766). Here: accept loop without any I/O on connections,
  handshake in the connection's own thread with a deadline (:mod:`.connection`);
- a peer that sends part of a PDU header holds its slot for good. Here: a deadline per PDU from its
  first byte and one for silence; connections without an association take no association's place
  (:mod:`.rooms`);
- an announced PDU length is believed: 400 MiB of a "2 GiB" PDU were taken into memory. Here: the
  length is judged from the six header bytes (:mod:`.pdu`);
- every storage class times every transfer syntax is deep-copied per association (53 ms CPU). Here:
  one rule decides per proposed context (:mod:`.negotiation`);
- two threads per association poll with 1 ms sleeps, receive 4 KiB at a time and copy each PDU
  several times (pynetdicom#639, #650, #917: 3 to 35 times slower than DCMTK). Here: one thread with
  a blocking socket per association, fragments go straight to the log or file (:mod:`.connection`,
  :mod:`.store`);
- an answer can be lost between threads (#435), an abort leaks its socket (#912), `select` breaks
  at descriptor 1024. None of the three exists with one blocking thread per connection;
- N-EVENT-REPORT as acceptor is untested upstream (#617). Here: :mod:`.conversation`.

Layers, each testable alone: :mod:`.pdu` framing; :mod:`.machine` the state table of PS3.8 9.2;
:mod:`.negotiation`; :mod:`.command` DIMSE command sets; :mod:`.head` the UIDs of a data set;
:mod:`.conversation` one association without a socket; :mod:`.connection` its socket;
:mod:`.server` the accept loop; :mod:`.wal`, :mod:`.journal`, :mod:`.store` what makes an answer
true after a power cut; :mod:`.jobs` what may come; :mod:`.process` and :mod:`.supervisor` the
processes.
"""

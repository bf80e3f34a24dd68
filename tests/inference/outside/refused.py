"""Cases of the suite that ONNX Runtime loads and podpair doesn't serve, by what V2 has nothing for."""

REFUSED: dict[str, tuple[str, ...]] = {
    "sequences of tensors": (
        "test_identity_sequence",
        "test_if_seq",
        "test_loop13_seq",
        "test_sequence_map_identity_1_sequence",
        "test_sequence_map_identity_1_sequence_expanded",
        "test_sequence_map_identity_2_sequences",
        "test_sequence_map_identity_2_sequences_expanded",
        "test_sequence_map_identity_1_sequence_1_tensor",
        "test_sequence_map_identity_1_sequence_1_tensor_expanded",
        "test_sequence_map_add_2_sequences",
        "test_sequence_map_add_2_sequences_expanded",
        "test_sequence_map_add_1_sequence_1_tensor",
        "test_sequence_map_add_1_sequence_1_tensor_expanded",
        "test_sequence_map_extract_shapes",
        "test_sequence_map_extract_shapes_expanded",
        "test_sequence_insert_at_back",
        "test_sequence_insert_at_front",
        "test_split_to_sequence_1",
        "test_split_to_sequence_2",
        "test_split_to_sequence_nokeepdims",
    ),
    "optionals": (
        "test_identity_opt",
        "test_if_opt",
        "test_loop16_seq_none",
    ),
}

"""timm's names: what of its hub is read here, `timm/ARCHITECTURE.TAG`.

Facts of timm 1.0.31's `pretrained_cfg`s: an architecture, the name of its size here
("-": it has none), the side of its images, and its tags of that side in timm's order.
The CLIP towers called "quickgelu" are the repositories of the others, read with another
GELU. `pytest tests/test_peers_names.py` compares every line with the installed timm.
"""

_VIT = """
vit_7b_patch16_dinov3 - 256 lvd1689m sat493m
vit_base_patch14_dinov2 B/14 518 lvd142m
vit_base_patch14_reg1_tipsv2 B/14 448 webli
vit_base_patch14_reg4_dinov2 B/14 518 lvd142m
vit_base_patch16_224 B/16 224 augreg2_in21k_ft_in1k augreg_in1k augreg_in21k
    augreg_in21k_ft_in1k bamboo dino mae orig_in21k orig_in21k_ft_in1k sam_in1k
vit_base_patch16_224_miil B/16 224 in21k in21k_ft_in1k
vit_base_patch16_384 B/16 384 augreg_in1k augreg_in21k_ft_in1k orig_in21k_ft_in1k
vit_base_patch16_clip_224 B/16 224 datacompxl dfn2b laion2b laion2b_ft_in1k
    laion2b_ft_in12k laion2b_ft_in12k_in1k laion400m_e32 metaclip_2pt5b metaclip_400m
    openai openai_ft_in1k openai_ft_in12k openai_ft_in12k_in1k
vit_base_patch16_clip_384 B/16 384 laion2b_ft_in1k laion2b_ft_in12k_in1k
    openai_ft_in1k openai_ft_in12k_in1k
vit_base_patch16_clip_quickgelu_224 B/16 224 metaclip_2pt5b metaclip_400m openai
vit_base_patch16_dinov3 B/16 256 lvd1689m
vit_base_patch16_dinov3_qkvb B/16 256 eupe_lvd1689m lvd1689m
vit_base_patch16_lingbot B/16 512 robbyant
vit_base_patch16_plus_clip_240 - 240 laion400m_e32
vit_base_patch16_radio_v3 B/16 512 c_radio
vit_base_patch16_rope_224 B/16 224 naver_in1k
vit_base_patch16_rope_ape_224 B/16 224 naver_in1k
vit_base_patch16_rope_mixed_224 B/16 224 naver_in1k
vit_base_patch16_rope_mixed_ape_224 B/16 224 naver_in1k
vit_base_patch16_rope_reg1_gap_256 B/16 256 sbb_in1k
vit_base_patch16_rpn_224 B/16 224 sw_in1k
vit_base_patch16_siglip_224 B/16 224 v2_webli webli
vit_base_patch16_siglip_256 B/16 256 v2_webli webli webli_i18n
vit_base_patch16_siglip_384 B/16 384 v2_webli webli
vit_base_patch16_siglip_512 B/16 512 v2_webli webli
vit_base_patch16_siglip_gap_224 B/16 224 v2_webli webli
vit_base_patch16_siglip_gap_256 B/16 256 v2_webli webli webli_i18n
vit_base_patch16_siglip_gap_384 B/16 384 v2_webli webli
vit_base_patch16_siglip_gap_512 B/16 512 v2_webli webli
vit_base_patch32_224 B/32 224 augreg_in1k augreg_in21k augreg_in21k_ft_in1k orig_in21k
    sam_in1k
vit_base_patch32_384 B/32 384 augreg_in1k augreg_in21k_ft_in1k
vit_base_patch32_clip_224 B/32 224 datacompxl laion2b laion2b_ft_in1k
    laion2b_ft_in12k_in1k laion400m_e32 metaclip_2pt5b metaclip_400m openai
    openai_ft_in1k
vit_base_patch32_clip_256 B/32 256 datacompxl
vit_base_patch32_clip_384 B/32 384 laion2b_ft_in12k_in1k openai_ft_in12k_in1k
vit_base_patch32_clip_448 B/32 448 laion2b_ft_in12k_in1k
vit_base_patch32_clip_quickgelu_224 B/32 224 laion400m_e32 metaclip_2pt5b
    metaclip_400m openai
vit_base_patch32_siglip_256 B/32 256 v2_webli
vit_base_patch32_siglip_gap_256 B/32 256 v2_webli
vit_base_patch8_224 B/8 224 augreg2_in21k_ft_in1k augreg_in21k augreg_in21k_ft_in1k
    dino
vit_base_r50_s16_224 R50+B/16 224 orig_in21k
vit_base_r50_s16_384 R50+B/16 384 orig_in21k_ft_in1k
vit_betwixt_patch16_reg1_gap_256 - 256 sbb_in1k
vit_betwixt_patch16_reg4_gap_256 - 256 sbb2_e200_in12k sbb2_e200_in12k_ft_in1k
    sbb_in1k sbb_in12k sbb_in12k_ft_in1k
vit_betwixt_patch16_reg4_gap_384 - 384 sbb2_e200_in12k_ft_in1k
vit_betwixt_patch16_rope_reg4_gap_256 - 256 sbb_in1k
vit_betwixt_patch32_clip_224 - 224 tinyclip_laion400m
vit_giant_patch14_clip_224 g/14 224 laion2b
vit_giant_patch14_dinov2 - 518 lvd142m
vit_giant_patch14_reg1_tipsv2 - 448 webli
vit_giant_patch14_reg4_dinov2 - 518 lvd142m
vit_giant_patch16_lingbot - 512 robbyant
vit_giant_patch16_radio_v3 - 512 c_radio
vit_giantopt_patch16_siglip_256 g-opt/16 256 v2_webli
vit_giantopt_patch16_siglip_384 g-opt/16 384 v2_webli
vit_giantopt_patch16_siglip_gap_256 g-opt/16 256 v2_webli
vit_giantopt_patch16_siglip_gap_384 g-opt/16 384 v2_webli
vit_gigantic_patch14_clip_224 G/14 224 laion2b metaclip2_worldwide metaclip_2pt5b
vit_gigantic_patch14_clip_378 G/14 378 metaclip2_worldwide
vit_gigantic_patch14_clip_quickgelu_224 G/14 224 metaclip_2pt5b
vit_huge_patch14_224 H/14 224 mae orig_in21k
vit_huge_patch14_clip_224 H/14 224 dfn5b laion2b laion2b_ft_in1k laion2b_ft_in12k
    laion2b_ft_in12k_in1k metaclip2_worldwide metaclip_2pt5b metaclip_altogether
vit_huge_patch14_clip_336 H/14 336 laion2b_ft_in12k_in1k
vit_huge_patch14_clip_378 H/14 378 dfn5b metaclip2_worldwide
vit_huge_patch14_clip_quickgelu_224 H/14 224 dfn5b metaclip2_worldwide metaclip_2pt5b
vit_huge_patch14_clip_quickgelu_378 H/14 378 dfn5b
vit_huge_patch16_radio_v3 H/16 512 c_radio
vit_huge_patch16_radio_v4 H/16 512 c_radio
vit_huge_plus_patch16_dinov3 - 256 lvd1689m
vit_huge_plus_patch16_dinov3_qkvb - 256 lvd1689m
vit_intern300m_patch14_448 L/14 448 ogvl_2pt5 ogvl_dist
vit_large_patch14_clip_224 L/14 224 apple_mclip2_dfndr2b datacompxl dfn2b dfn2b_s39b
    laion2b laion2b_ft_in1k laion2b_ft_in12k laion2b_ft_in12k_in1k laion400m_e32
    metaclip_2pt5b metaclip_400m openai openai_ft_in1k openai_ft_in12k
    openai_ft_in12k_in1k
vit_large_patch14_clip_336 L/14 336 laion2b_ft_in1k laion2b_ft_in12k_in1k openai
    openai_ft_in12k_in1k
vit_large_patch14_clip_quickgelu_224 L/14 224 dfn2b metaclip_2pt5b metaclip_400m
    openai
vit_large_patch14_clip_quickgelu_336 L/14 336 openai
vit_large_patch14_dinov2 L/14 518 lvd142m
vit_large_patch14_reg1_tipsv2 L/14 448 webli
vit_large_patch14_reg4_dinov2 L/14 518 lvd142m
vit_large_patch16_224 L/16 224 augreg_in21k augreg_in21k_ft_in1k mae orig_in21k
vit_large_patch16_384 L/16 384 augreg_in21k_ft_in1k
vit_large_patch16_dinov3 L/16 256 lvd1689m sat493m
vit_large_patch16_dinov3_qkvb L/16 256 lvd1689m sat493m
vit_large_patch16_lingbot L/16 512 robbyant
vit_large_patch16_radio_v3 L/16 512 c_radio
vit_large_patch16_rope_224 L/16 224 naver_in1k
vit_large_patch16_rope_ape_224 L/16 224 naver_in1k
vit_large_patch16_rope_mixed_224 L/16 224 naver_in1k
vit_large_patch16_rope_mixed_ape_224 L/16 224 naver_in1k
vit_large_patch16_siglip_256 L/16 256 v2_webli webli
vit_large_patch16_siglip_384 L/16 384 v2_webli webli
vit_large_patch16_siglip_512 L/16 512 v2_webli
vit_large_patch16_siglip_gap_256 L/16 256 v2_webli webli
vit_large_patch16_siglip_gap_384 L/16 384 v2_webli webli
vit_large_patch16_siglip_gap_512 L/16 512 v2_webli
vit_large_patch32_224 L/32 224 orig_in21k
vit_large_patch32_384 L/32 384 orig_in21k_ft_in1k
vit_large_r50_s32_224 R50+L/32 224 augreg_in21k augreg_in21k_ft_in1k
vit_large_r50_s32_384 R50+L/32 384 augreg_in21k_ft_in1k
vit_little_patch16_reg1_gap_256 - 256 sbb_in12k sbb_in12k_ft_in1k
vit_little_patch16_reg4_gap_256 - 256 sbb_in1k
vit_medium_patch16_clip_224 M/16 224 tinyclip_yfcc15m
vit_medium_patch16_gap_240 M/16 240 sw_in12k
vit_medium_patch16_gap_256 M/16 256 sw_in12k_ft_in1k
vit_medium_patch16_gap_384 M/16 384 sw_in12k_ft_in1k
vit_medium_patch16_reg1_gap_256 M/16 256 sbb_in1k
vit_medium_patch16_reg4_gap_256 M/16 256 sbb_in1k sbb_in12k sbb_in12k_ft_in1k
vit_medium_patch16_rope_reg1_gap_256 M/16 256 sbb_in1k
vit_medium_patch32_clip_224 M/32 224 tinyclip_laion400m
vit_mediumd_patch16_reg4_gap_256 - 256 sbb2_e200_in12k sbb2_e200_in12k_ft_in1k
    sbb_in12k sbb_in12k_ft_in1k
vit_mediumd_patch16_reg4_gap_384 - 384 sbb2_e200_in12k_ft_in1k
vit_mediumd_patch16_rope_reg1_gap_256 - 256 sbb_in1k
vit_small_patch14_dinov2 S/14 518 lvd142m
vit_small_patch14_reg4_dinov2 S/14 518 lvd142m
vit_small_patch16_224 S/16 224 augreg_in1k augreg_in21k augreg_in21k_ft_in1k dino
vit_small_patch16_384 S/16 384 augreg_in1k augreg_in21k_ft_in1k
vit_small_patch16_dinov3 S/16 256 lvd1689m
vit_small_patch16_dinov3_qkvb S/16 256 eupe_lvd1689m lvd1689m
vit_small_patch16_lingbot S/16 512 robbyant
vit_small_patch16_rope_224 S/16 224 naver_in1k
vit_small_patch16_rope_ape_224 S/16 224 naver_in1k
vit_small_patch16_rope_mixed_224 S/16 224 naver_in1k
vit_small_patch16_rope_mixed_ape_224 S/16 224 naver_in1k
vit_small_patch32_224 S/32 224 augreg_in21k augreg_in21k_ft_in1k
vit_small_patch32_384 S/32 384 augreg_in21k_ft_in1k
vit_small_patch8_224 S/8 224 dino
vit_small_plus_patch16_dinov3 - 256 lvd1689m
vit_small_plus_patch16_dinov3_qkvb - 256 lvd1689m
vit_small_r26_s32_224 R26+S/32 224 augreg_in21k augreg_in21k_ft_in1k
vit_small_r26_s32_384 R26+S/32 384 augreg_in21k_ft_in1k
vit_so150m2_patch16_reg1_gap_256 - 256 sbb_e200_in12k sbb_e200_in12k_ft_in1k
vit_so150m2_patch16_reg1_gap_384 - 384 sbb_e200_in12k_ft_in1k
vit_so150m2_patch16_reg1_gap_448 - 448 sbb_e200_in12k_ft_in1k
vit_so150m_patch16_reg4_gap_256 - 256 sbb_e250_in12k sbb_e250_in12k_ft_in1k
vit_so150m_patch16_reg4_gap_384 - 384 sbb_e250_in12k_ft_in1k
vit_so400m_patch14_reg1_tipsv2 So400m/14 448 webli
vit_so400m_patch14_siglip_224 So400m/14 224 v2_webli webli
vit_so400m_patch14_siglip_378 So400m/14 378 v2_webli webli webli_ft_in1k
vit_so400m_patch14_siglip_384 So400m/14 384 webli
vit_so400m_patch14_siglip_gap_224 So400m/14 224 pali2_3b_pt pali2_10b_pt pali_mix
    pali_pt v2_webli webli
vit_so400m_patch14_siglip_gap_378 So400m/14 378 v2_webli webli webli_ft_in1k
vit_so400m_patch14_siglip_gap_384 So400m/14 384 webli
vit_so400m_patch14_siglip_gap_448 So400m/14 448 pali2_3b_docci pali2_3b_pt
    pali2_10b_docci pali2_10b_pt pali_mix pali_ocrvqa pali_pt pali_refcoco_seg
vit_so400m_patch14_siglip_gap_896 So400m/14 896 pali2_3b_pt pali2_10b_pt pali_ocrvqa
    pali_pt pali_refcoco_seg
vit_so400m_patch16_radio_v4 So400m/16 512 c_radio
vit_so400m_patch16_siglip_256 So400m/16 256 v2_webli webli_i18n
vit_so400m_patch16_siglip_384 So400m/16 384 v2_webli
vit_so400m_patch16_siglip_512 So400m/16 512 v2_webli
vit_so400m_patch16_siglip_gap_256 So400m/16 256 v2_webli webli_i18n
vit_so400m_patch16_siglip_gap_384 So400m/16 384 v2_webli
vit_so400m_patch16_siglip_gap_512 So400m/16 512 v2_webli
vit_tiny_patch16_224 Ti/16 224 augreg_in21k augreg_in21k_ft_in1k
vit_tiny_patch16_384 Ti/16 384 augreg_in21k_ft_in1k
vit_tiny_patch16_dinov3_qkvb Ti/16 256 eupe_lvd1689m
vit_tiny_r_s16_p8_224 R+Ti/16 224 augreg_in21k augreg_in21k_ft_in1k
vit_tiny_r_s16_p8_384 R+Ti/16 384 augreg_in21k_ft_in1k
vit_wee_patch16_reg1_gap_256 - 256 sbb_in1k
vit_xsmall_patch16_clip_224 - 224 tinyclip_yfcc15m
deit3_base_patch16_224 B/16 224 fb_in1k fb_in22k_ft_in1k
deit3_base_patch16_384 B/16 384 fb_in1k fb_in22k_ft_in1k
deit3_huge_patch14_224 H/14 224 fb_in1k fb_in22k_ft_in1k
deit3_large_patch16_224 L/16 224 fb_in1k fb_in22k_ft_in1k
deit3_large_patch16_384 L/16 384 fb_in1k fb_in22k_ft_in1k
deit3_medium_patch16_224 M/16 224 fb_in1k fb_in22k_ft_in1k
deit3_small_patch16_224 S/16 224 fb_in1k fb_in22k_ft_in1k
deit3_small_patch16_384 S/16 384 fb_in1k fb_in22k_ft_in1k
deit_base_distilled_patch16_224 B/16 224 fb_in1k
deit_base_distilled_patch16_384 B/16 384 fb_in1k
deit_base_patch16_224 B/16 224 fb_in1k
deit_base_patch16_384 B/16 384 fb_in1k
deit_small_distilled_patch16_224 S/16 224 fb_in1k
deit_small_patch16_224 S/16 224 fb_in1k
deit_tiny_distilled_patch16_224 Ti/16 224 fb_in1k
deit_tiny_patch16_224 Ti/16 224 fb_in1k
eva02_enormous_patch14_clip_224 - 224 laion2b laion2b_plus
eva02_small_patch14_224 - 224 mim_in22k
eva02_small_patch14_336 - 336 mim_in22k_ft_in1k
eva02_tiny_patch14_224 - 224 mim_in22k
eva02_tiny_patch14_336 - 336 mim_in22k_ft_in1k
eva_giant_patch14_224 g/14 224 clip_ft_in1k
eva_giant_patch14_336 g/14 336 clip_ft_in1k m30m_ft_in22k_in1k
eva_giant_patch14_560 g/14 560 m30m_ft_in22k_in1k
eva_giant_patch14_clip_224 g/14 224 laion400m merged2b
eva_large_patch14_196 L/14 196 in22k_ft_in1k in22k_ft_in22k_in1k
eva_large_patch14_336 L/14 336 in22k_ft_in1k in22k_ft_in22k_in1k
flexivit_base B/16 240 300ep_in1k 300ep_in21k 600ep_in1k 1000ep_in21k 1200ep_in1k
    patch16_in21k patch30_in21k
flexivit_large L/16 240 300ep_in1k 600ep_in1k 1200ep_in1k
flexivit_small S/16 240 300ep_in1k 600ep_in1k 1200ep_in1k
test_vit - 160 r160_in1k
test_vit2 - 160 r160_in1k
"""
_MIXER = """
mixer_b16_224 Mixer-B/16 224 goog_in21k goog_in21k_ft_in1k miil_in21k
    miil_in21k_ft_in1k
mixer_l16_224 Mixer-L/16 224 goog_in21k goog_in21k_ft_in1k
"""
_BIT = """
resnetv2_50x1_bit BiT-R50x1 224 goog_distilled_in1k goog_in21k
resnetv2_50x1_bit BiT-R50x1 448 goog_in21k_ft_in1k
resnetv2_50x3_bit BiT-R50x3 224 goog_in21k
resnetv2_50x3_bit BiT-R50x3 448 goog_in21k_ft_in1k
resnetv2_101x1_bit BiT-R101x1 224 goog_in21k
resnetv2_101x1_bit BiT-R101x1 448 goog_in21k_ft_in1k
resnetv2_101x3_bit BiT-R101x3 224 goog_in21k
resnetv2_101x3_bit BiT-R101x3 448 goog_in21k_ft_in1k
resnetv2_152x2_bit BiT-R152x2 224 goog_in21k goog_teacher_in21k_ft_in1k
resnetv2_152x2_bit BiT-R152x2 384 goog_teacher_in21k_ft_in1k_384
resnetv2_152x2_bit BiT-R152x2 448 goog_in21k_ft_in1k
resnetv2_152x4_bit BiT-R152x4 224 goog_in21k
resnetv2_152x4_bit BiT-R152x4 480 goog_in21k_ft_in1k
"""
# Text of a table -> the dialect of its files. Other dialects get a text and a row.
TABLES: dict[str, str] = {_VIT: "timm", _MIXER: "timm_mixer", _BIT: "timm_bit"}

# Where what is not in timm's own organisation lies.
ELSEWHERE = {"_lingbot": "belfner/"}
QUICK = "_clip_quickgelu_"

"""The direction of a metric is found by whole words of its name, or not at all."""

from __future__ import annotations

import pytest

from relight.metrics.metric_direction import guess_direction, word_guess

HIGHER = """
    ep_ret SI-SDRi chrF++ adjusted_rand_score neg_brier_score acc_norm eval_rougeLsum squad/exact GDT_TS lDDT
    accuracy top1 auroc f1 iou dice map50 bleu rouge_l psnr ssim r2 answer_f1 answer_accuracy flower_acc
    lower_body_iou tower_acc power_factor_r2 confidence_auc fidelity soccer_map cancer_auc ulcer_sensitivity
    terrain_iou ferry_ap berry_map kerr_score interrupt_recall interval_coverage transferred_acc referring_iou
    bitsliced_acc gloss_bleu maestro_f1 wermuth_score rouge-L mAP mAP@50 mAP@[.5:.95] recall@5 R@1 r@10 hit@10
    hits@1 ndcg@10 mrr log_likelihood miou mIoU average_precision auc_roc ROC-AUC PR_AUC elbo reward return
    episode_return ep_rew_mean success_rate win_rate tokens_per_second samples_per_second neg_log_loss
    neg_mean_squared_error rougeLsum rougeL ROUGE-1 BLEU-4 BLEU4 valAcc val/acc validation/accuracy F1Score
    f1_macro macro_f1 macroF1 f0.5 r_squared R2 R^2 pass@1 exact_match em tar@far pearsonr mean_reciprocal_rank
    acc@1 Acc@5 top_5_accuracy top-1 top_k_accuracy dice_coef DiceCoefficient clip_score inception_score
    val_f1_score true_positive_rate true_negative_rate negative_predictive_value AUROC AP50 APs AP_small pck@0.2
    PCKh ms_ssim si_sdr explained_variance testacc valF1 precision@0.5 kappa mcc f1@0.5 perplexity_reduction
    neg_acc cosine_similarity eval_accuracy eval/mean_reward loss_accuracy box_map mask/AP metrics/mAP50-95(B)
    metrics/mAP50-95 metrics/precision(B) balanced_accuracy multiclass_accuracy BinaryF1Score MulticlassAUROC
    accuracy_per_class log_prob tm_score hota PSNR
"""
LOWER = """
    num_false_positives fpr95tpr docking_score davies_bouldin_score brier_score_loss step_time td_error tDCF WER%
    loss val_loss error rmse mae mse nll perplexity ppl wer cer fid kid lpips cross_entropy val_ce bce logloss mape
    smape wape rmsle mase ece brier hd95 hausdorff chamfer epe ade fde mpjpe der eer ter abs_rel silog kl kl_div
    crps pinball entropy energy latency val_l1 l2 rms residual HD95 hd_95 top-5-error top5_err error@1 dice_loss
    accuracy_error accuracy_loss error_rate neg_elbo negative_log_likelihood neg_log_likelihood regret crossEntropy
    CrossEntropyLoss valLoss ValLoss val/Loss train_losses valloss fid_score FID-50k brier_score word_error_rate
    false_positive_rate fnr fpr@95 FPR95 fpr95 hausdorff_distance edit_distance bits_per_byte bpb
    mean_squared_error MeanSquaredError l1_distance abs_error RMSE RMSE/test per_token_loss eval_loss
    validation/loss log_loss mean_rank ppl/wikitext word_perplexity inference_time loss/total box_loss cls_loss
    train/dfl_loss 1e3_loss wer@5 FAD distance cost log10_error per val_per expected_calibration_error miss_rate
    mean_absolute_percentage_error mDAPE test_WER dissimilarity kid_mean maxmean_discrepancy collision_rate
"""
UNKNOWN = """
    mean_confidence certainty x grad_norm lr answer cancer flower learning_rate tower errand berror lossless ratio
    lossless_ratio value margin alpha terrace cerium feral middle custom metric foo temperature epoch step size
    mass mapping returnable dicey acceptance recap precise maple bitsy
"""


@pytest.mark.parametrize(("names", "higher"), [(HIGHER, True), (LOWER, False), (UNKNOWN, None)])
def test_the_usual_names_have_their_direction_and_others_have_none(names: str, higher: bool | None) -> None:
    assert [name for name in names.split() if guess_direction(name) is not higher] == []
    assert [name for name in names.split() if guess_direction(f"validation/{name}") is not higher] == []


def test_the_last_word_that_decides_wins() -> None:
    assert guess_direction("accuracy_loss") is False
    assert guess_direction("loss_accuracy") is True
    assert guess_direction("top-5 error") is False
    assert guess_direction("fid_score") is False, "'score' decides only where nothing else does"
    assert guess_direction("neg_log_likelihood") is False
    assert guess_direction("neg_mean_squared_error") is True


@pytest.mark.parametrize("name", ["", "/", "@", "\ud800", "損失", "a" * 10_000, "_" * 10_000, "@" * 10_000])
def test_odd_names_have_no_direction(name: str) -> None:
    assert guess_direction(name) is None


def test_the_option_that_settles_a_guess_is_named() -> None:
    said = "add higher_is_better=True or False to"
    assert f'{said} relight.init(best="certainty").' in word_guess("validation/certainty", is_script=True)
    assert f"{said} the task's class." in word_guess("validation/certainty", is_script=False)
